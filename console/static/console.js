// The console's page: shows what the console tells it, and asks for what its user wants.
"use strict";

const $ = (id) => document.getElementById(id);
const HISTORY = "hitogata.history";
const MOST_HISTORY = 50;
const RETRY_MS = 1000;
const WAIT_MS = 4000;
const SILENT_MS = 3000;

let socket = null;
let asked = 0;
const waiting = new Map(); // number of an order -> what to do with its answer
let role = { commands: false };
let history = recall();
let place = history.length; // where in the history the text field is
let draft = "";
let picture = true;
let heard = 0; // when the console last told a moment
let stops = 0; // the number of the last stop that this page has shown

// --- the connection ---

function connect() {
  const scheme = location.protocol === "https:" ? "wss://" : "ws://";
  const line = new WebSocket(scheme + location.host + "/live");
  line.binaryType = "arraybuffer";
  line.onopen = () => {
    socket = line;
    heard = performance.now();
    link("connected", false);
    order("look", { picture });
  };
  line.onmessage = (event) => {
    if (typeof event.data === "string") show(JSON.parse(event.data));
    else paint(event.data);
  };
  line.onclose = () => {
    const was = socket === line;
    socket = null;
    for (const answer of waiting.values()) answer("the connection to the console broke");
    waiting.clear();
    link("the console does not answer: trying again. The robot goes on without this page.", true);
    if (was) say("level", "?", { level: "" });
    setTimeout(connect, RETRY_MS);
  };
}

// A connection may break without a word; then what is shown grows old.
setInterval(() => {
  if (!socket || performance.now() - heard < SILENT_MS) return;
  link("connected, but the console is silent: what you see is old", true);
  say("level", "?", { level: "" });
}, RETRY_MS);

function order(name, content = {}, answer = complain) {
  if (!socket || socket.readyState !== WebSocket.OPEN) {
    answer("not connected to the console");
    return;
  }
  const number = ++asked;
  waiting.set(number, answer);
  setTimeout(() => {
    if (waiting.delete(number)) answer("the console has not answered yet");
  }, WAIT_MS);
  socket.send(JSON.stringify({ do: name, number, stops, ...content }));
}

function complain(fault) {
  say("answer", fault);
}

// --- stopping comes first ---

function stop() {
  const began = performance.now();
  say("stopped", "stopping ...");
  order("stop", {}, (fault) => {
    const took = Math.round(performance.now() - began);
    const failed = fault.startsWith("NOT stopped") ? fault
      : `NOT stopped (${fault}): use the robot's own emergency stop`;
    say("stopped", fault ? failed : `stop heard by the robot after ${took} ms; Release lets it go on`);
    $("stopped").dataset.ms = fault ? "" : took;
  });
}

$("stop").onclick = stop;
addEventListener("keydown", (event) => {
  if (event.key === "Escape") {
    event.preventDefault();
    if (!event.repeat) stop();
  }
}, true);
addEventListener("message", (event) => {
  if (event.origin === location.origin && event.data === "stop") stop();
});

// --- what the user asks ---

function tell(text) {
  order("instruct", { text }, (fault) => {
    complain(fault);
    if (fault) return;
    say("stopped", "");
    remember(text);
  });
}

$("say").onsubmit = (event) => {
  event.preventDefault();
  tell($("text").value);
  $("text").value = "";
};

$("text").onkeydown = (event) => {
  const step = { ArrowUp: -1, ArrowDown: 1 }[event.key];
  if (!step || event.altKey || event.isComposing) return;
  event.preventDefault();
  if (place === history.length) draft = $("text").value;
  place = Math.min(Math.max(place + step, 0), history.length);
  $("text").value = place === history.length ? draft : history[place];
};

for (const name of ["pause", "resume"]) {
  $(name).onclick = () => order(name);
}
$("release").onclick = () => order("release", {}, (fault) => {
  complain(fault);
  if (!fault) say("stopped", "");
});
$("take").onclick = () => order("take", { command: !role.commands });
$("record").onclick = () => {
  order("record", { on: $("record").getAttribute("aria-pressed") !== "true" });
};
$("new-scene").onsubmit = (event) => {
  event.preventDefault();
  order("scene", { seed: Number($("seed").value) });
};
$("other-scene").onclick = () => {
  order("scene", { seed: Math.floor(Math.random() * 10000) });
};

function recall() {
  try {
    const kept = JSON.parse(localStorage.getItem(HISTORY));
    return Array.isArray(kept) ? kept.filter((text) => typeof text === "string") : [];
  } catch {
    return [];
  }
}

function remember(text) {
  history = [...history.filter((other) => other !== text), text].slice(-MOST_HISTORY);
  place = history.length;
  try {
    localStorage.setItem(HISTORY, JSON.stringify(history));
  } catch {
    // a browser that keeps nothing
  }
}

// --- what the console tells ---

function show(message) {
  const known = { answer: showAnswer, role: showRole, scene: showScene, moment: showMoment, film: showFilm };
  known[message.kind]?.(message);
}

function showAnswer(message) {
  const answer = waiting.get(message.number);
  waiting.delete(message.number);
  answer?.(message.fault);
}

function showRole(message) {
  role = message;
  say("role", message.line);
  $("take").hidden = !message.may_take && !message.commands;
  say("take", message.commands ? "Give command away" : "Take command");
  for (const element of document.querySelectorAll("#talk input, #talk button, #controls button, #controls input")) {
    element.disabled = !message.commands;
  }
}

function showScene(message) {
  if (message.seed !== null) $("seed").value = message.seed;
  buttons("suggestions", message.suggestions);
}

function showFilm(message) {
  say("film", message.line);
  $("record").setAttribute("aria-pressed", String(message.recording));
  say("record", message.recording ? "Stop recording" : "Record");
}

function showMoment(message) {
  heard = performance.now();
  stops = message.stops ?? stops;
  if ($("link").dataset.lost === "true") link("connected", false);
  say("level", message.silent ? "no robot" : message.level, { level: message.level });
  say("cause", [message.trouble, message.cause].filter(Boolean).join("; "));
  say("instruction", message.instruction || "nothing");
  say("understood", message.understood || (message.status ? "it does not say" : "-"));
  say("doubt", message.doubt ?? "");
  const sure = message.status ? ` (${Math.round(100 * message.probability)} %)` : "";
  const why = {
    length: ": it does not hear so much at once, say it in fewer words",
    unseen: ": it sees no such thing",
    unable: ": it cannot do that",
  }[message.reason];
  const refused = why ?? ": it does not know these words, say it in others, in English";
  const advice = { ambiguous: ": which one?", refused }[message.status] ?? "";
  say("status", (message.status || "-") + advice + sure, { status: message.status || "" });
  say("speed", `${number(message.speed_m_s, 2)} m/s`);
  say("policy", `${number(message.latency_ms, 0)} ms, ${number(message.rate_hz, 1)} chunks/s`);
  say("decoding", message.tokens ? `${message.tokens} tokens in ${message.steps} steps` : "not reported");
  say("loop", `${number(message.pace, 2)} x real time, ${message.overruns ?? "-"} overruns`);
  $("state").dataset.pose = JSON.stringify(message.pose ?? []);
  buttons("choices", message.choices ?? []);
  drawExperts(message.experts);
}

function drawExperts(layers) {
  const canvas = $("experts");
  const known = Boolean(layers?.length && layers[0].length);
  canvas.hidden = !known;
  const text = known ? `${layers.length} layers of ${layers[0].length} experts` : "not reported by this policy";
  say("experts-text", text);
  if (!known) return;
  canvas.setAttribute("aria-label", `share of each expert, ${text}`);
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  const high = canvas.height / layers.length;
  layers.forEach((shares, row) => {
    const most = Math.max(...shares, 1e-9);
    const wide = canvas.width / shares.length;
    shares.forEach((share, column) => {
      pen.fillStyle = `hsl(210 80% ${12 + 58 * (share / most)}%)`;
      pen.fillRect(column * wide, row * high, wide - 1, high - 1);
    });
  });
}

const PICTURES = { 1: ["eye", "image/png"], 2: ["view", "image/jpeg"] };

const drawing = new Set(); // images that the browser has not shown yet
const next = new Map(); // and what they show after that

function paint(content) {
  const [id, type] = PICTURES[new Uint8Array(content, 0, 1)[0]] ?? [];
  if (!id) return;
  if (drawing.has(id)) {
    next.set(id, content);
    return;
  }
  drawing.add(id);
  const image = $(id);
  const url = URL.createObjectURL(new Blob([new Uint8Array(content, 1)], { type }));
  image.onload = image.onerror = () => {
    URL.revokeObjectURL(url);
    drawing.delete(id);
    const newer = next.get(id);
    next.delete(id);
    if (newer) paint(newer);
  };
  image.src = url;
  image.dataset.count = Number(image.dataset.count ?? 0) + 1;
}

// --- the scene: drawn by this browser, or a picture drawn by the console ---

function canDraw() {
  const pen = document.createElement("canvas").getContext("webgl2");
  const about = pen?.getExtension("WEBGL_debug_renderer_info");
  const name = about ? pen.getParameter(about.UNMASKED_RENDERER_WEBGL) : "";
  pen?.getExtension("WEBGL_lose_context")?.loseContext();
  return window.crossOriginIsolated && Boolean(pen) && !/swiftshader|llvmpipe|software|basic render/i.test(name);
}

function look(drawn) {
  picture = !drawn;
  $("view").hidden = drawn;
  document.querySelector("iframe")?.remove();
  if (drawn) {
    const frame = document.createElement("iframe");
    frame.title = "The robot in 3D: arrow keys or dragging turn it, plus and minus or scrolling come closer or go away";
    frame.src = "/studio/";
    $("scene").prepend(frame);
  }
  $("mode").setAttribute("aria-pressed", String(drawn));
  if (socket) order("look", { picture });
}

$("mode").onclick = () => look(picture);

$("keys").ontoggle = () => {
  if ($("keys").open) $("keys").scrollIntoView({ block: "nearest" });
};

// --- small things ---

function say(id, text, data = {}) {
  const element = $(id);
  if (element.textContent !== text) element.textContent = text;
  Object.assign(element.dataset, data);
}

function link(text, lost) {
  say("link", text, { lost });
}

function number(value, digits) {
  return typeof value === "number" ? value.toFixed(digits) : "-";
}

function buttons(id, texts) {
  const box = $(id);
  if (box.dataset.texts === JSON.stringify(texts)) return;
  box.dataset.texts = JSON.stringify(texts);
  box.replaceChildren(...texts.map((text) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = text;
    button.disabled = !role.commands;
    button.onclick = () => tell(text);
    return button;
  }));
}

connect(); // before all else: stopping needs no picture
look(canDraw());
