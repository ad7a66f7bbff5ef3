// In the frame of the 3D scene: the keys of its camera, and those that the client would keep.
"use strict";

// What a key press does, as a drag of the mouse or a turn of its wheel. A drag takes the scene
// along: the camera goes the other way.
const TURN_PX = 24;
const CLOSER_PX = 120;
const TURNS = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
const CLOSER = { "+": 1, "=": 1, PageUp: 1, "-": -1, PageDown: -1 };

let gestures = Promise.resolve(); // one after another, in the order of their keys
let waiting = 0;

addEventListener("keydown", (event) => {
  // Esc stops the robot, wherever the keyboard's focus is. Tab leads on.
  if (event.key === "Escape" && !event.repeat) parent.postMessage("stop", location.origin);
  if (event.key === "Tab") event.stopImmediatePropagation();
  if (event.ctrlKey || event.altKey || event.metaKey) return;
  const turn = TURNS[event.key];
  const closer = CLOSER[event.key];
  if (!turn && !closer) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  if (event.repeat && waiting) return; // a key held down is as fast as pictures are drawn
  waiting += 1;
  gestures = gestures
    .then(() => (turn ? drag(turn[0] * TURN_PX, turn[1] * TURN_PX) : wheel(closer * CLOSER_PX)))
    .finally(() => { waiting -= 1; });
}, true);

// The client knows the mouse alone, and takes one of its moves for each picture that it draws.
async function drag(right, down) {
  await mouse("mousemove", 0, 0, 0);
  await mouse("mousedown", 0, 0, 1);
  await mouse("mousemove", right, down, 1);
  await mouse("mouseup", right, down, 0);
}

function mouse(type, right, down, buttons) {
  const canvas = document.getElementById("canvas");
  canvas.dispatchEvent(new MouseEvent(type, { ...middle(canvas, right, down), buttons }));
  return new Promise(requestAnimationFrame);
}

function wheel(deltaY) {
  const canvas = document.getElementById("canvas");
  canvas.dispatchEvent(new WheelEvent("wheel", { ...middle(canvas, 0, 0), deltaY }));
}

function middle(canvas, right, down) {
  const box = canvas.getBoundingClientRect();
  return {
    bubbles: true,
    cancelable: true,
    view: window,
    clientX: box.x + box.width / 2 + right,
    clientY: box.y + box.height / 2 + down,
    movementX: right,
    movementY: down,
  };
}
