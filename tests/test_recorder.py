"""The black box: exact round trips, a ring that wraps, kills, damage, full disks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bridge.blackbox.journal import NAMES, Journal, read_frames
from bridge.blackbox.recorder import Recorder
from bridge.blackbox.recording import Moment, Recording, read_recording, write_recording
from bridge.contract import UserError
from bridge.files import text_array
from bridge.png import decode_png
from robots.g1.embodiment import COMMAND_DIM, G1, IMAGE_SIZE, STATE_DIM
from tests.doubles import await_true

ROOT = Path(__file__).parent.parent
WAIT_S = 30.0


def moment(index: int, time_s: float | None = None) -> Moment:
    """Every value follows from the index."""
    silent = index % 7 == 3
    image = np.full((IMAGE_SIZE, IMAGE_SIZE, 3), index % 256, np.uint8)
    return Moment(
        time_s=index / 50 if time_s is None else time_s,
        level=index // 10 % 4,
        cause=f"cause {index // 10 % 4}",
        state=None if silent else np.arange(STATE_DIM, dtype=np.float32) + index,
        asked=None if index % 3 else np.full(COMMAND_DIM, 1 / (index + 1), np.float32),
        sent=np.arange(COMMAND_DIM, dtype=np.float32) * index,
        counters={"rejected": index} | ({"late": -index} if index >= 20 else {}),
        images={"head": image} if index % 5 == 0 else {},
    )


def check(recording: Recording, indices: range, lost: int = 0) -> None:
    """That a recording holds exactly these moments, and the pictures taken in their time.

    Of the last pictures `lost` may be missing.
    """
    moments = [moment(index) for index in indices]
    count = len(moments)
    assert recording.level.tolist() == [m.level for m in moments]
    assert recording.causes == tuple(m.cause for m in moments)
    assert recording.has_state.tolist() == [m.state is not None for m in moments]
    assert recording.has_asked.tolist() == [m.asked is not None for m in moments]
    for row, m in enumerate(moments):
        zero = np.zeros(COMMAND_DIM, np.float32)
        assert (recording.state[row] == (np.zeros(STATE_DIM) if m.state is None else m.state)).all()
        assert (recording.asked[row] == (zero if m.asked is None else m.asked)).all()
        assert (recording.sent[row] == m.sent).all()
    assert recording.state.shape == (count, STATE_DIM) and recording.state.dtype == np.float32
    assert recording.counters["rejected"].tolist() == [m.counters["rejected"] for m in moments]
    if indices.stop > 20:
        late = [m.counters.get("late", 0) for m in moments]
        assert recording.counters["late"].tolist() == late
    pictures = [m for m in moments if m.images]
    shown = recording.pngs[-len(pictures) :]
    assert len(pictures) - lost <= len(shown)
    for picture, png in zip(pictures, shown, strict=False):
        assert (decode_png(png) == picture.images["head"]).all()


def test_a_recording_holds_what_was_added(tmp_path):
    with Recorder(tmp_path, G1) as recorder:
        for index in range(100):
            recorder.add(moment(index))
        path = recorder.write("the robot has fallen")
    found = read_recording(path)
    check(found, range(100))
    assert found.time_s.tolist() == [index / 50 for index in range(100)]
    assert found.image_time_s.tolist() == [index / 50 for index in range(0, 100, 5)]
    assert found.events == ((99 / 50, "the robot has fallen"),)
    assert recorder.counters == dict.fromkeys(recorder.counters, 0) and recorder.trouble == ""
    # Written in order, nothing is left of the journal.
    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", path.name]
    copy = tmp_path / "copy.npz"
    write_recording(copy, found)
    check(read_recording(copy), range(100))


def test_the_oldest_make_room(tmp_path):
    with Recorder(tmp_path, G1, seconds=2.0) as recorder:
        for index in range(250):
            recorder.add(moment(index))
            if index == 10:
                recorder.write("long ago")
            if index % 40 == 0:  # the ring is emptied before it is full
                await_true(lambda index=index: recorder._ring._read == index + 1)
        path = recorder.write("end")
    found = read_recording(path)
    check(found, range(150, 250))
    assert found.image_time_s.tolist() == [index / 50 for index in range(150, 250, 5)]
    assert found.events == ((249 / 50, "end"),)
    assert recorder.counters["lost_periods"] == 0


def test_what_comes_too_fast_is_lost_and_counted(tmp_path, monkeypatch):
    with Recorder(tmp_path, G1, seconds=2.0) as recorder:
        monkeypatch.setattr("bridge.blackbox.recorder._FLUSH_S", WAIT_S)
        time.sleep(0.5)  # the thread now sleeps until it is woken
        for index in range(150):
            recorder.add(moment(index))
        path = recorder.write("end")
    # One row might have been half overwritten.
    check(read_recording(path), range(51, 150))
    assert recorder.counters["lost_periods"] == 51
    assert "too fast" in recorder.trouble


def test_a_file_at_once_and_again_with_what_came_after(tmp_path):
    with Recorder(tmp_path, G1, after_s=1.0) as recorder:
        for index in range(10):
            recorder.add(moment(index))
        path = recorder.write("HOLD")
        await_true(path.exists)
        check(read_recording(path), range(10))
        for index in range(10, 20):
            recorder.add(moment(index))
        assert recorder.write("SAFE_STAND") == path  # within a second
        for index in range(20, 60):
            recorder.add(moment(index))
        # The second after the first event ends at 9 / 50 + 1 s.
        await_true(lambda: len(read_recording(path).time_s) == 60)
        events = ((9 / 50, "HOLD"), (19 / 50, "SAFE_STAND"))
        assert read_recording(path).events == events
        recorder.add(moment(60))
        second = recorder.write("HOLD again")
        assert second != path
    assert read_recording(second).events == (*events, (60 / 50, "HOLD again"))
    assert len(read_recording(path).time_s) == 60


def test_what_comes_while_the_journal_is_written_is_not_left_out(tmp_path, monkeypatch):
    keep, rest = Recorder._keep, iter([range(10, 60)])

    def keep_while_the_loop_goes_on(recorder, frames):
        keep(recorder, frames)
        if recorder._open:  # the event has been taken
            for index in next(rest, ()):
                recorder.add(moment(index))

    monkeypatch.setattr(Recorder, "_keep", keep_while_the_loop_goes_on)
    with Recorder(tmp_path, G1, after_s=1.0) as recorder:
        for index in range(10):
            recorder.add(moment(index))
        path = recorder.write("HOLD")
        await_true(lambda: path.exists() and len(read_recording(path).time_s) == 60)


def test_a_clock_set_back_starts_another_file(tmp_path):
    with Recorder(tmp_path, G1) as recorder:
        recorder.add(moment(0, time_s=1000.0))
        first = recorder.write("before")
        recorder.add(moment(1, time_s=0.02))
        second = recorder.write("after")
    assert first != second
    assert read_recording(second).time_s.tolist() == [1000.0, 0.02]
    assert [reason for _, reason in read_recording(second).events] == ["before", "after"]


def test_an_error_in_the_loop_is_recorded(tmp_path):
    with pytest.raises(ZeroDivisionError), Recorder(tmp_path, G1) as recorder:
        recorder.add(moment(0))
        recorder.add(moment(1 // 0))
    found = read_recording(tmp_path / "recording-000001.npz")
    assert len(found.time_s) == 1 and "ZeroDivisionError" in found.events[0][1]


def test_old_recordings_make_room(tmp_path, monkeypatch):
    monkeypatch.setattr("bridge.blackbox.recorder._MOST_RECORDINGS", 3)
    (tmp_path / "mine.txt").write_text("kept", encoding="utf-8")
    (tmp_path / "recording-000001-killed").mkdir()
    (tmp_path / "recording-000001-killed/journal-0").write_bytes(b"old")
    for _ in range(4):
        with Recorder(tmp_path, G1) as recorder:
            recorder.add(moment(0))
            recorder.write("again")
    names = sorted(path.name for path in tmp_path.iterdir() if path.name != ".lock")
    assert names == ["mine.txt", *(f"recording-00000{n}.npz" for n in (3, 4, 5))]


def test_one_recorder_a_folder(tmp_path):
    for _ in range(2):
        told = rf"another process \({os.getpid()}\) records"
        with Recorder(tmp_path, G1), pytest.raises(UserError, match=told):
            Recorder(tmp_path, G1)
    Recorder(tmp_path, G1).close()
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(UserError, match="another folder"):
        Recorder(tmp_path / "file", G1)


KILLED_AT_ONCE = 10


@pytest.mark.parametrize("group", range(5))
def test_killed_processes_leave_all_but_their_last_second(tmp_path, group):
    rng = np.random.default_rng(group)
    children = [recording_child(tmp_path / str(index)) for index in range(KILLED_AT_ONCE)]
    try:
        for child in children:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.write(b"go\n")
            child.stdin.flush()
        for child in children:
            child.stdout.readline()
        time.sleep(1.2)
        for child in children:
            time.sleep(float(rng.uniform(0, 0.12)))
            child.kill()
        for index, child in enumerate(children):
            told = child.communicate()[0].split(b"\n")
            last = json.loads(told[-2])  # the last whole line
            found = read_recording(tmp_path / str(index))
            check(found, range(len(found.time_s)), lost=10)  # a second's
            assert found.time_s[-1] >= last["time_s"] - 1.0
            assert last["index"] >= len(found.time_s) - 2
            assert found.pngs and found.events == ((found.time_s[0], "begun"),)
    finally:
        for child in children:
            child.kill()
            child.communicate()
    with Recorder(tmp_path / "0", G1) as recorder:
        recorder.add(moment(0))
        path = recorder.write("again")
    # Number 1 is what the child itself had asked for.
    kept = read_recording(tmp_path / "0/recording-000002-killed")
    assert kept.events[0][1] == "begun" and len(kept.time_s) > 20
    assert path.name == "recording-000003.npz"
    check(read_recording(path), range(1))


def recording_child(folder: Path) -> subprocess.Popen[bytes]:
    """A process that records fifty moments a second once it reads a line, and tells of each."""
    return subprocess.Popen(
        [sys.executable, __file__, str(folder)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def record_until_killed(folder: Path) -> None:
    sys.stdin.readline()
    with Recorder(folder, G1) as recorder:
        for index in range(10_000):
            now_s = time.monotonic()
            recorder.add(moment(index, time_s=now_s))
            if index == 0:
                recorder.write("begun")
            print(json.dumps({"index": index, "time_s": now_s}), flush=True)
            time.sleep(0.02)


def test_recordings_of_release_0_1_name_no_robot(tmp_path):
    with Recorder(tmp_path, G1) as recorder:
        for index in range(30):
            recorder.add(moment(index))
        path = recorder.write("end")
    with np.load(path) as archive:
        arrays = dict(archive)
    del arrays["image_camera"]
    header = json.loads(arrays["header"].tobytes())
    assert header.pop("embodiment") == json.loads(json.dumps(G1.to_dict()))
    earlier = header | {"format": 1, "contract": "258f4b459637"}
    np.savez(path, allow_pickle=False, **arrays | {"header": text_array(earlier)})
    found = read_recording(path, unnamed=G1)
    assert found.embodiment is G1 and not found.image_camera.any()
    check(found, range(30))
    with pytest.raises(UserError, match="of which robot"):
        read_recording(path)


def test_damaged_files_are_refused(tmp_path):
    with Recorder(tmp_path, G1) as recorder:
        for index in range(3):
            recorder.add(moment(index))
        path = recorder.write("end")
    content = path.read_bytes()
    whole = read_recording(path)
    damaged = tmp_path / "damaged.npz"
    for length in (0, 1, 100, len(content) // 2, len(content) - 1):
        damaged.write_bytes(content[:length])
        with pytest.raises(UserError, match="cannot be read"):
            read_recording(damaged)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(content), size=300):
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x40]) + content[place + 1 :])
        try:
            found = read_recording(damaged)
        except UserError as error:
            refused += 1
            assert "\n" not in str(error)
            continue
        # Dates and the like carry nothing.
        assert (found.state == whole.state).all() and (found.sent == whole.sent).all()
        assert found.events == whole.events and found.pngs == whole.pngs
    assert refused > 200
    np.savez(damaged, something=np.zeros(3))
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(damaged)
    np.savez(damaged, header=np.array({"a": 1}, dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match="cannot be read"):
        read_recording(damaged)
    write_recording(damaged, replace(whole, sent=whole.sent[:2]))
    with pytest.raises(UserError, match="sent is"):
        read_recording(damaged)
    for nothing in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(UserError, match=r"cannot be read|there is no journal"):
            read_recording(nothing)


def test_a_journal_is_read_to_its_last_whole_frame(tmp_path):
    journal = Journal(tmp_path, segment_s=10.0)
    frames = [bytes([n]) * (n + 1) for n in range(6)]
    for n, frame in enumerate(frames):
        journal.append([frame], now_s=4.0 * n)  # a segment takes three
    journal.close(remove=False)
    assert read_frames(tmp_path) == frames
    first, second = (tmp_path / name for name in NAMES)
    whole = second.read_bytes()
    for cut in range(1, 14 + 1):  # the last frame has 6 bytes, and 8 before it
        second.write_bytes(whole[:-cut])
        assert read_frames(tmp_path) == frames[:5]
    second.write_bytes(whole[:-20] + b"\xff" + whole[-19:])
    assert read_frames(tmp_path) == frames[:4]
    for hopeless in (b"", b"HITOJRN1", b"something else entirely"):
        second.write_bytes(hopeless)
        assert read_frames(tmp_path) == frames[:3]
    first.unlink()
    assert read_frames(tmp_path) == []


def test_a_journal_s_older_half_makes_room(tmp_path):
    journal = Journal(tmp_path, segment_s=1.0)
    for n in range(100):
        journal.append([bytes([n])], now_s=0.1 * n)
        seen = [frame[0] for frame in read_frames(tmp_path)]
        assert seen == list(range(seen[0], n + 1)) and len(seen) <= 22
        assert len(seen) >= min(n + 1, 10)
    journal.append([b"x"], now_s=0.0)  # the clock was set back
    assert read_frames(tmp_path)[-1] == b"x"
    journal.close(remove=True)
    assert list(tmp_path.iterdir()) == []


if __name__ == "__main__":
    record_until_killed(Path(sys.argv[1]))
