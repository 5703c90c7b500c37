"""A state that a copy of the process pickles: real processes, and the bytes that this one would have made."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stream.build import new_pipeline
from stream.errors import SnapshotError
from stream.pipeline import Pipeline
from stream.snapshots.file import pickled, queues_of
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, in_background
from stream.snapshots.pickling import CopyStuckError, in_a_copy, in_this_process
from stream.testing import MemoryStore
from tests.helpers import body, canonical, record, settings_for
from tests.unit.stream.snapshots.test_segments import FOLD


class Acting:
    """Does something when it is pickled; what it does in a copy of the process is not seen in this one."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        self._act = act

    def __reduce__(self) -> Any:
        self._act()
        return int, ()


def pipeline_after(count: int) -> Pipeline:
    """With questions that wait, so that no queue is empty."""
    pipeline = new_pipeline(settings_for("regression"))
    for i in range(count):
        pipeline.process(record(body(id=f"l{i}", features={"a": i}, label=i * 2), offset=2 * i))
        pipeline.process(record(body(id=f"q{i}", features={"a": i}), offset=2 * i + 1))
    return pipeline


def in_a_copy_of(pipeline: Pipeline, *, patience: float = 30.0) -> Any:
    return in_a_copy(pipeline.state, (), "partition 0", expected_seconds=0.0, patience=patience)


def acting(act: Callable[[], None]) -> Pipeline:
    pipeline = pipeline_after(3)
    pipeline.state.recent_features.append({"a": Acting(act)})  # type: ignore[dict-item]
    return pipeline


def test_a_copy_gives_what_this_process_would() -> None:
    pipeline = pipeline_after(50)

    here, there = in_this_process(pipeline.state, (), "partition 0")(), in_a_copy_of(pipeline)()

    assert there.payload.state == here.payload.state
    assert there.tried == here.tried
    assert there.tried.learned == 50
    assert [queue.manifest() for queue in there.payload.queues] == [
        queue.manifest() for queue in here.payload.queues
    ]
    assert len(there.payload.queues) == len(queues_of(pipeline.state))
    assert there.cpu_seconds > 0.0 == here.cpu_seconds


def test_a_copy_has_the_state_of_the_moment_at_which_it_was_made() -> None:
    pipeline = pipeline_after(20)
    before = pickled(pipeline.state)
    waiting = len(pipeline.state.labels.pending)

    rest = in_a_copy_of(pipeline)
    for i in range(20):
        pipeline.process(record(body(id=f"m{i}", features={"a": -i}, label=i), offset=100 + i))
        pipeline.process(record(body(id=f"q{i}", label=i), offset=200 + i))
    found = rest()

    assert len(pipeline.state.labels.pending) < waiting
    assert found.payload.state == before.state != pickled(pipeline.state).state
    assert [q.manifest() for q in found.payload.queues] == [q.manifest() for q in before.queues]


def test_what_can_not_be_pickled_is_told_as_in_this_process() -> None:
    def fails() -> None:
        raise ValueError("a lock")

    pipeline = acting(fails)

    with pytest.raises(SnapshotError) as here:
        in_this_process(pipeline.state, (), "partition 0")
    with pytest.raises(SnapshotError) as there:
        in_a_copy_of(pipeline)()

    assert str(there.value) == str(here.value)
    assert "ValueError: a lock" in str(there.value)


def test_a_copy_that_is_killed_is_told() -> None:
    rest = in_a_copy_of(acting(lambda: os.kill(os.getpid(), signal.SIGKILL)))

    with pytest.raises(SnapshotError, match=r"ended with -9, as where memory is short\."):
        rest()


def test_a_copy_that_does_not_end_is_ended(tmp_path: Path) -> None:
    pid = tmp_path / "pid"

    def hangs() -> None:
        pid.write_text(str(os.getpid()))
        time.sleep(600)

    rest = in_a_copy_of(acting(hangs), patience=5.0)

    with pytest.raises(CopyStuckError, match=r"did not end within 5 s"):
        rest()
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_a_copy_holds_no_socket_of_ours_and_no_signal_for_us_ends_it(tmp_path: Path) -> None:
    """A worker that was killed must be able to come again at once, at the same port."""
    files, go_on = tmp_path / "files", tmp_path / "go-on"
    with socket.create_server(("127.0.0.1", 0)):

        def looks() -> None:
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                os.kill(os.getpid(), number)
            with os.scandir("/proc/self/fd") as found:
                there = [os.readlink(entry.path) for entry in found if int(entry.name) > 2]
            there.remove(f"/proc/{os.getpid()}/fd")  # that of the list itself
            files.write_text("\n".join(there))
            go_on.touch()

        in_a_copy_of(acting(looks))()

    assert go_on.exists()
    assert [text.partition(":")[0] for text in files.read_text().splitlines()] == ["pipe"]


PARENT = """
import os, sys, time
from pathlib import Path
from stream.snapshots.pickling import in_a_copy
from tests.unit.stream.snapshots.test_pickling import acting

def hangs():
    Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(600)

in_a_copy(acting(hangs).state, (), "partition 0", expected_seconds=0.0)
time.sleep(600)
"""


def test_a_copy_ends_with_the_process_that_it_is_one_of(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    parent = subprocess.Popen([sys.executable, "-c", PARENT, str(pid)])
    try:
        wait_until(lambda: pid.exists() and pid.read_text() != "")
    finally:
        parent.kill()
        parent.wait()
    wait_until(lambda: is_gone(pid.read_text()))


def is_gone(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_where_memory_runs_out_the_copy_goes_first(tmp_path: Path) -> None:
    score = tmp_path / "score"

    def looks() -> None:
        score.write_text(Path("/proc/self/oom_score_adj").read_text())

    in_a_copy_of(acting(looks))()

    assert int(score.read_text()) == 1_000
    assert int(Path("/proc/self/oom_score_adj").read_text()) < 1_000


def test_no_copy_is_left_behind_and_no_file_is_left_open() -> None:
    pipeline = pipeline_after(5)
    before = len(os.listdir("/proc/self/fd"))

    for _ in range(5):
        in_a_copy_of(pipeline)()
    with pytest.raises(SnapshotError):
        in_a_copy_of(acting(lambda: os.kill(os.getpid(), signal.SIGKILL)))()

    assert len(os.listdir("/proc/self/fd")) == before
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


def test_a_copy_is_made_whatever_other_threads_hold() -> None:
    """In a copy a lock that another thread held stays locked for good."""
    lock = threading.Lock()
    held, done = threading.Event(), threading.Event()

    def holds() -> None:
        with lock:
            held.set()
            done.wait()

    thread = threading.Thread(target=holds)
    thread.start()
    held.wait()
    try:
        assert in_a_copy_of(pipeline_after(5))().tried.learned == 5
    finally:
        done.set()
        thread.join()


# With the keeper --------------------------------------------------------------------------------------------------


def keeper_of(store: MemoryStore, *, blocks: Callable[[], int], start: Any = in_background) -> SnapshotKeeper:
    keeper = SnapshotKeeper(
        store,
        b"k" * 32,
        SnapshotPolicy(interval_seconds=0.0, interval_events=1, keep=2, max_bytes=10_000_000),
        blocks=blocks,
        start=start,
        clock=iter(range(0, 1_000_000, 1_000)).__next__,
        with_copies=True,
    )
    keeper.watch(0)
    return keeper


class Growing:
    """Blocks of memory: so many more after the first reading."""

    def __init__(self, blocks: int) -> None:
        self._blocks = blocks
        self._readings = 0

    def __call__(self) -> int:
        self._readings += 1
        return 0 if self._readings == 1 else self._blocks


@pytest.mark.parametrize(("blocks", "is_here"), [(1_000, True), (1_000_000, False)], ids=["small", "large"])
def test_a_large_state_is_pickled_in_a_copy_and_restored_as_it_was(blocks: int, is_here: bool) -> None:
    noted: list[int] = []
    pipeline = pipeline_after(30)
    store = MemoryStore()
    keeper = keeper_of(store, blocks=Growing(blocks))
    pipeline.state.recent_features.append({"a": Acting(lambda: noted.append(1))})  # type: ignore[dict-item]

    assert keeper.due({0: 60}, lambda: [pipeline.state]) == 0
    keeper.take(pipeline.state, FOLD, 60)
    pipeline.state.recent_features.pop()
    assert keeper.wait(60)
    (taken,) = keeper.collect()

    assert taken.name is not None, taken.reason
    assert bool(noted) is is_here
    restored = keeper_of(store, blocks=Growing(0)).newest(FOLD, first=0, committed=60).restored
    assert restored is not None
    again, other = new_pipeline(settings_for("regression")), pipeline
    again.resume(restored.state)
    for i in range(20):
        text = body(id=f"q{i}", label=i)
        assert again.process(record(text, offset=60 + i)) == other.process(record(text, offset=60 + i))
    for part in ("learner", "prequential", "drift", "labels"):
        assert canonical(getattr(again.state, part)) == canonical(getattr(other.state, part)), part
