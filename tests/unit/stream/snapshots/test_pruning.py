from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from stream.snapshots.file import Fold
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, Taken, offset_of
from stream.snapshots.store import LocalDirectory
from tests.unit.stream.snapshots.test_file import FOLD, KEY, state_after

POLICY = SnapshotPolicy(interval_seconds=10, interval_events=500, keep=2, max_bytes=1_000_000)


def take(keeper: SnapshotKeeper, fold: Fold, next_offset: int) -> Taken:
    keeper.take(state_after(10), fold, next_offset)
    (taken,) = keeper.collect()
    return taken


def keeper_of(folder: Path) -> SnapshotKeeper:
    return SnapshotKeeper(LocalDirectory(folder / "p"), KEY, POLICY, start=lambda job: job())


def test_after_one_is_taken_the_oldest_beyond_those_kept_go(tmp_path: Path) -> None:
    keeper = keeper_of(tmp_path)

    for offset in (10, 20, 30):
        take(keeper, FOLD, offset)

    assert [offset_of(name) for name in keeper.store.names(FOLD.partition)] == [30, 20]


def test_one_is_never_pushed_out_by_what_is_left_of_an_earlier_fold(tmp_path: Path) -> None:
    """As after a reset to the beginning, when the old ones could not be deleted."""
    keeper = keeper_of(tmp_path)
    for offset in (1_000, 2_000):
        take(keeper, FOLD, offset)
    begun_anew = replace(FOLD, origin=0)

    taken = [take(keeper, begun_anew, offset).name for offset in (10, 20, 30)]

    found = keeper.store.names(FOLD.partition)
    assert [offset_of(name) for name in found] == [2_000, 1_000, 30, 20]
    restored = keeper.newest(begun_anew, first=0, committed=30).restored
    assert restored is not None
    assert restored.name == taken[-1]


def test_one_that_fails_says_why_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("in the way")
    keeper = keeper_of(tmp_path)

    assert take(keeper, FOLD, 10).reason == (
        f"{tmp_path}/p: is a symbolic link or no directory; expected a directory."
    )
    (tmp_path / "p").unlink()
    tmp_path.chmod(0o500)
    keeper.store.put = no_space  # type: ignore[method-assign]
    assert take(keeper, FOLD, 10).reason == "No space left on device."


def no_space(name: str, content: bytes) -> None:
    raise OSError(28, "No space left on device")
