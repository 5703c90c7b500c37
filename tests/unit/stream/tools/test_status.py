from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from stream.settings import Settings
from stream.tools.cluster import Bounds, Commit
from stream.tools.status import StatusView, tables, view_of

NOW = 1_000_000.0


def settings() -> Settings:
    return Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "clicks"},
            "learner": {"use": "logistic-regression"},
            "drift": [{"watch": "error", "detector": "adwin"}],
        }
    )


def status(partition: int, **other: object) -> dict[str, Any]:
    return {
        "pipeline": "p",
        "partition": partition,
        "offset": 100,
        "end": 100,
        "lag_records": 0,
        "events": 100,
        "predictions": 100,
        "learned": 100,
        "scored": 100,
        "dead_letters": 1,
        "pending": 2,
        "window": 10,
        "metrics": {
            "accuracy": {"value": 0.5, "window": 0.6},
            "roc_auc": {"value": 0.7, "window": 0.8},
        },
        "baselines": {"no_change": {"value": 0.4, "window": 0.3}},
        "drift": [{"watch": "error", "detector": "adwin", "last_drift_at": 42}],
        "state": "live",
        "time": NOW - 3,
        **other,
    }


def view(
    statuses: dict[int, dict[str, Any]],
    *,
    workers: int = 1,
    commits: dict[int, Commit] | None = None,
    ends: tuple[int, ...] = (100, 100),
) -> StatusView:
    return view_of(
        settings(),
        workers=workers,
        commits={0: Commit(100, ""), 1: Commit(100, "")} if commits is None else commits,
        bounds=[Bounds(0, end) for end in ends],
        statuses=statuses,
        now=NOW,
    )


def test_metrics_that_are_means_are_averaged_by_events_and_others_not_at_all() -> None:
    other = status(1, scored=300, metrics={"accuracy": {"value": 0.9, "window": 0.8}})

    totals = view({0: status(0), 1: other}).totals

    assert totals["metrics"]["accuracy"]["value"] == pytest.approx((0.5 * 100 + 0.9 * 300) / 400)
    assert totals["metrics"]["accuracy"]["window"] == pytest.approx(0.7)
    assert totals["metrics"]["roc_auc"]["value"] is None
    assert totals["learned"] == 200


def test_lag_counts_from_the_commit_when_the_status_is_older() -> None:
    found = view({0: status(0, end=50, lag_records=10)}, ends=(130,), commits={0: Commit(100, "")})

    assert found.partitions[0].lag_records == 30


def test_lag_does_not_count_control_records_that_the_worker_has_read() -> None:
    found = view({0: status(0, end=101, lag_records=0)}, ends=(101,), commits={0: Commit(100, "")})

    assert found.partitions[0].lag_records == 0


def test_without_a_commit_all_that_is_in_the_log_is_lag() -> None:
    found = view_of(
        settings(), workers=0, commits={}, bounds=[Bounds(20, 100)], statuses={}, now=NOW
    ).partitions[0]

    assert (found.next_offset, found.lag_records, found.age_seconds) == (None, 80, None)


def test_no_worker_is_said_with_the_command_that_starts_one() -> None:
    assert view({0: status(0), 1: status(1)}, workers=0).warnings == [
        "No worker runs now; start one: headrace run settings.toml"
    ]


def test_a_worker_that_writes_no_status_is_said() -> None:
    (warning,) = view({0: status(0, time=NOW - 31), 1: status(1, time=NOW - 31)}).warnings

    assert warning.startswith("No status within 30 s, though the group has 1 member:")


def test_a_partition_without_a_fresh_status_is_named() -> None:
    (warning,) = view({0: status(0), 1: status(1, time=NOW - 300)}).warnings

    assert warning.startswith("No status within 30 s of partition 1:")


def test_fresh_statuses_give_no_warning() -> None:
    assert view({0: status(0), 1: status(1)}).warnings == []


def test_the_tables_show_positions_metrics_baselines_and_the_last_drift() -> None:
    console = Console(width=200, file=StringIO())

    for table in tables(settings(), view({0: status(0)})):
        console.print(table)

    assert isinstance(console.file, StringIO)
    shown = console.file.getvalue()
    assert "@42 error (adwin)" in shown
    assert "0.5000 (0.6000)" in shown
    assert "no-change" in shown
    assert "0.4000 (0.3000)" in shown
    assert "mean, weighted by events" in shown
    assert "never" in shown  # partition 1 has no status
