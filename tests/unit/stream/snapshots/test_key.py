from __future__ import annotations

import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from stream.errors import EnvironmentRefused
from stream.snapshots.key import FILE, LEAST_BYTES, local_key


def refusal(folder: Path) -> str:
    with pytest.raises(EnvironmentRefused) as raised:
        local_key(folder)
    return str(raised.value)


def test_a_key_is_made_once_and_is_the_same_ever_after(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "snapshots"

    key = local_key(folder)

    assert len(key) >= LEAST_BYTES
    assert local_key(folder) == key
    assert local_key(tmp_path / "another") != key
    assert [entry.name for entry in folder.iterdir()] == [FILE]


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077, 0o777])
def test_only_its_owner_can_read_it_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    before = os.umask(umask)
    try:
        if umask == 0o777 and os.geteuid() != 0:
            pytest.skip("nobody but root could read it back")
        local_key(tmp_path)
    finally:
        os.umask(before)

    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600


def test_the_folder_of_a_new_key_is_its_owners(tmp_path: Path) -> None:
    local_key(tmp_path / "snapshots")

    assert stat.S_IMODE((tmp_path / "snapshots").stat().st_mode) & 0o077 == 0


def test_threads_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    for attempt in range(10):
        barrier = Barrier(8)

        def make(folder: Path = tmp_path / str(attempt), barrier: Barrier = barrier) -> bytes:
            barrier.wait()
            return local_key(folder)

        with ThreadPoolExecutor(8) as pool:
            keys = [future.result() for future in [pool.submit(make) for _ in range(8)]]

        assert len(set(keys)) == 1


def test_processes_that_make_it_at_once_have_the_same(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from stream.snapshots.key import local_key; "
        "sys.stdin.read(); print(local_key(Path(sys.argv[1])).decode())"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "snapshots")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None

    keys = {process.communicate(timeout=60)[0] for process in processes}

    assert [process.returncode for process in processes] == [0, 0, 0]
    assert keys == {local_key(tmp_path / "snapshots").decode() + "\n"}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o700 | 0o010])
def test_a_key_that_others_may_read_is_refused(tmp_path: Path, mode: int) -> None:
    local_key(tmp_path)
    path = tmp_path / FILE
    path.chmod(mode)

    text = refusal(tmp_path)

    assert f"{path}: others may read it (mode {mode:o}); expected 600." in text
    assert f"chmod 600 {path}" in text
    assert path.read_text() not in text


def test_a_symbolic_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    local_key(tmp_path / "real")
    folder = tmp_path / "linked"
    folder.mkdir()
    (folder / FILE).symlink_to(tmp_path / "real" / FILE)

    assert "can't be made or read" in refusal(folder)


@pytest.mark.parametrize("content", ["", "short", "x" * 31, " " * 40])
def test_a_short_key_is_refused_with_its_size(tmp_path: Path, content: str) -> None:
    local_key(tmp_path)
    (tmp_path / FILE).write_text(content)

    text = refusal(tmp_path)

    assert f"has {len(content.strip())} bytes; expected at least 32" in text
    assert "Put the right one back" in text


def test_a_key_that_an_operator_wrote_with_an_editor_is_taken(tmp_path: Path) -> None:
    path = tmp_path / FILE
    path.write_text("a" * 40 + "\n")
    path.chmod(0o600)

    assert local_key(tmp_path) == b"a" * 40


def test_a_folder_that_can_not_be_written_to_is_refused_in_a_sentence(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")

    text = refusal(in_the_way / "snapshots")

    assert f"{in_the_way / 'snapshots' / FILE}: the key that seals snapshots can't be made or read" in text
    assert "or set [snapshots] location to a place it can write to." in text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_refused_in_a_sentence(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        assert "(Permission denied). Let this user write to" in refusal(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_a_pipe_in_its_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / FILE, 0o600)

    assert refusal(tmp_path)
