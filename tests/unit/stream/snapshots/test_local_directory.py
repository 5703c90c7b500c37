"""Snapshots in a directory of this machine."""

from __future__ import annotations

import errno
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from stream.errors import SnapshotError
from stream.snapshots.store import STALE_SECONDS, LocalDirectory
from tests.snapshot_stores import MOST, Open, StoreSuite, name_of


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "snapshots" / "fraud"


@pytest.fixture
def open_store(root: Path) -> Open:
    return lambda: LocalDirectory(root)


@pytest.fixture
def put_oddly(root: Path) -> Callable[[str], None]:
    def put(name: str) -> None:
        path = root / name
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_bytes(b"odd")

    return put


class TestLocalDirectory(StoreSuite):
    """The promises of every store."""


# --- What lies there is no plain file ----------------------------------------------------------------------


def _link(path: Path) -> None:
    path.with_name("elsewhere").write_bytes(b"state")
    path.symlink_to(path.with_name("elsewhere"))


def _socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's path has at most 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as opened:
            opened.bind(path.name)
    finally:
        os.chdir(here)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_link, "is a symbolic link; none is followed"),
        (os.mkfifo, "is no plain file"),
        (_socket, "is no plain file"),
        (Path.mkdir, "is no plain file"),
    ],
    ids=["link", "pipe", "socket", "folder"],
)
def test_what_is_no_plain_file_is_refused_without_waiting_and_let_go(
    root: Path, make: Callable[[Path], None], reason: str
) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    make(root / name_of(2))
    before = psutil.Process().num_fds()

    for _ in range(3):
        with pytest.raises(SnapshotError, match=reason):
            store.get(name_of(2), MOST)

    assert psutil.Process().num_fds() == before
    assert store.get(name_of(1), MOST) == b"state"


def test_a_small_file_takes_little_memory_whatever_the_limit(root: Path) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = psutil.Process().memory_info().vms

    resource.setrlimit(resource.RLIMIT_AS, (used + 2**28, hard))
    try:
        content = store.get(name_of(1), 2**40)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))

    assert content == b"state"


# --- A put that does not come to its end -------------------------------------------------------------------


def _temporaries(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "3").iterdir() if path.name.endswith(".temporary"))


def _leave_temporary(root: Path, *, age_seconds: float) -> Path:
    path = root / "3" / f".{name_of(9)[2:]}.4194305.temporary"
    path.write_bytes(b"half of a sta")
    os.utime(path, (time.time() - age_seconds,) * 2)
    return path


def test_what_a_dead_writer_left_is_swept_and_what_a_live_one_writes_is_not(root: Path) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    left = _leave_temporary(root, age_seconds=STALE_SECONDS + 60)
    store.put(name_of(2), b"state")
    assert not left.exists()

    left = _leave_temporary(root, age_seconds=STALE_SECONDS - 60)
    store.put(name_of(3), b"state")
    assert left.exists()

    assert store.names(3) == [name_of(3), name_of(2), name_of(1)]


def test_a_disk_that_dead_writers_filled_is_swept_before_it_is_written_to(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    left = _leave_temporary(root, age_seconds=STALE_SECONDS + 60)
    fsync = os.fsync

    def full_while_it_lies_there(descriptor: int) -> None:
        if left.exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full_while_it_lies_there)
    store.put(name_of(2), b"state")

    assert store.get(name_of(2), MOST) == b"state"


def test_a_file_that_can_not_be_written_whole_leaves_the_old_one(root: Path) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(OSError, match="File too large"):
            store.put(name_of(1), b"n" * 20_000)
        with pytest.raises(OSError, match="File too large"):
            store.put(name_of(2), b"n" * 20_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert store.get(name_of(1), MOST) == b"old"
    assert store.names(3) == [name_of(1)]
    assert _temporaries(root) == []
    store.put(name_of(1), b"new")
    assert store.get(name_of(1), MOST) == b"new"


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_disk_that_fails_leaves_the_old_one_and_nothing_else(
    root: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"old")

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, step, full)
        with pytest.raises(OSError, match="No space left on device"):
            store.put(name_of(1), b"new")

    assert store.get(name_of(1), MOST) == b"old"
    assert _temporaries(root) == []


#: Puts one snapshot, and is killed by the kernel at the call that is named.
_DIES = """
import os, signal, sys
from pathlib import Path
from stream.snapshots.store import LocalDirectory

setattr(os, sys.argv[2], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
LocalDirectory(Path(sys.argv[1])).put(sys.argv[3], b"new, and never finished")
"""


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_writer_killed_before_the_rename_leaves_the_old_content(root: Path, step: str) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"old")

    ended = subprocess.run([sys.executable, "-c", _DIES, str(root), step, name_of(1)], check=False)

    assert ended.returncode == -signal.SIGKILL
    assert len(_temporaries(root)) == 1
    assert store.get(name_of(1), MOST) == b"old"
    assert store.names(3) == [name_of(1)]
    store.put(name_of(1), b"new")
    assert store.get(name_of(1), MOST) == b"new"


def test_on_return_the_file_and_every_folder_that_was_made_are_on_the_disk(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, int]] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        found = os.fstat(descriptor)
        synced.append((found.st_dev, found.st_ino))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    LocalDirectory(root).put(name_of(1), b"state")

    # A new entry is on the disk when the folder that holds it is.
    for path in (root / name_of(1), root / "3", root, root.parent, root.parent.parent):
        found = path.stat()
        assert (found.st_dev, found.st_ino) in synced, path


# --- Whose it is -------------------------------------------------------------------------------------------


@pytest.fixture
def umask() -> Iterator[Callable[[int], None]]:
    """Sets the umask for one test."""
    before = os.umask(0o022)
    yield lambda mask: (os.umask(mask), None)[1]
    os.umask(before)


@pytest.mark.parametrize("mask", [0o000, 0o002, 0o022, 0o077])
def test_nobody_else_may_read_or_write_it_whatever_the_umask(
    root: Path, umask: Callable[[int], None], mask: int
) -> None:
    umask(mask)

    LocalDirectory(root).put(name_of(1), b"state")

    assert [stat.S_IMODE(path.stat().st_mode) for path in (root, root / "3", root / name_of(1))] == [
        0o700,
        0o700,
        0o600,
    ]


def _every_call(store: LocalDirectory) -> list[Callable[[], object]]:
    return [
        lambda: store.put(name_of(1), b"new"),
        lambda: store.get(name_of(1), MOST),
        lambda: store.names(3),
        lambda: store.size(name_of(1)),
        lambda: store.delete(name_of(1)),
    ]


@pytest.mark.parametrize("folder", ["", "3"], ids=["the root", "a partition"])
def test_a_link_in_place_of_a_folder_is_refused(root: Path, folder: str) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    real = root / folder
    moved = real.rename(root.parent / "elsewhere")
    real.symlink_to(moved)

    for call in _every_call(store):
        with pytest.raises(SnapshotError, match="is a symbolic link or no directory"):
            call()

    assert (moved / (name_of(1) if not folder else name_of(1)[2:])).read_bytes() == b"state"


@pytest.mark.parametrize("folder", ["", "3"], ids=["the root", "a partition"])
@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
def test_a_folder_that_others_may_write_to_is_refused(root: Path, folder: str, mode: int) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    (root / folder).chmod(mode)

    for call in _every_call(store):
        with pytest.raises(SnapshotError, match=rf"with mode {mode:o}; expected a directory of user"):
            call()

    (root / folder).chmod(0o700)
    assert store.get(name_of(1), MOST) == b"state"


@pytest.mark.parametrize("folder", ["", "3"], ids=["the root", "a partition"])
def test_a_folder_of_another_user_is_refused(
    root: Path, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalDirectory(root)
    store.put(name_of(1), b"state")
    if os.geteuid() == 0:
        os.chown(root / folder, 12_345, -1)
    else:  # nobody but root can give a folder away
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)

    for call in _every_call(store):
        with pytest.raises(SnapshotError, match=r"belongs to user \d+ .* expected a directory of user"):
            call()
