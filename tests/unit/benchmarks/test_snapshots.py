from __future__ import annotations

from typing import Any

import pytest

from benchmarks.snapshots import Pair, require_comparable, snapshots_table


def report(seconds: float, *, snapshots: int = 0, **changed: Any) -> dict[str, Any]:
    return {
        "events": 1_000,
        "seconds": seconds,
        "cpu_seconds": seconds / 2,
        "peak_rss_mib": 150.0,
        "dead_letters": 0,
        "accuracy": 0.9,
        "snapshots": [{"bytes": 20_480, "pause_seconds": 0.001, "seconds": 0.03}] * snapshots,
        **changed,
    }


def test_the_share_is_that_of_the_speed_without_snapshots() -> None:
    assert Pair(report(1.0), report(1.25, snapshots=1)).share == pytest.approx(0.8)


def test_runs_that_did_the_same_are_compared() -> None:
    require_comparable(Pair(report(1.0), report(1.1, snapshots=3)), 1_000, 3)


@pytest.mark.parametrize(
    ("without", "with_snapshots", "why"),
    [
        (report(1.0), report(1.0, snapshots=2), "expected at least 3"),
        (report(1.0, snapshots=1), report(1.0, snapshots=3), "not enabled"),
        (report(1.0), report(1.0, snapshots=3, accuracy=0.8), "accuracy"),
        (report(1.0), report(1.0, snapshots=3, events=999), "1000 events"),
        (report(1.0, dead_letters=1), report(1.0, snapshots=3), "1000 events"),
    ],
)
def test_runs_that_differ_in_more_than_snapshots_are_refused(
    without: dict[str, Any], with_snapshots: dict[str, Any], why: str
) -> None:
    with pytest.raises(SystemExit, match=why):
        require_comparable(Pair(without, with_snapshots), 1_000, 3)


def test_the_table_has_the_median_and_the_range_of_the_rounds_and_of_all_snapshots() -> None:
    pairs = [Pair(report(1.0), report(seconds, snapshots=3)) for seconds in (1.0, 1.25, 2.0)]

    row = snapshots_table({"model": pairs}).splitlines()[2]

    assert row == (
        "| model | 1,000 | 800 | 0.80 (0.50 to 1.00) | 500.0 | 625.0 | 150 | 150 | 3 | 20 (20 to 20) | "
        "1.0 (1.0 to 1.0) | 30 (30 to 30) | 1,000 x 3 |"
    )
