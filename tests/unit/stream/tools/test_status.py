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


def shown(statuses: dict[int, dict[str, Any]], *, width: int = 200) -> str:
    console = Console(width=width, file=StringIO())
    for table in tables(settings(), view(statuses), NOW):
        console.print(table)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def test_the_tables_show_how_many_questions_got_their_label_and_when() -> None:
    late = {
        "questions": 102,
        "joined": 90,
        "expired": 10,
        "late": 5,
        "early": 0,
        "unmatched": 3,
        "duplicate_labels": 2,
        "conflicting_labels": 0,
        "label_delay": {"p50": 7_500.0, "p95": 9e4, "count": 90},
    }
    open_ = {"questions": 5, "joined": 0, "expired": 0, "label_delay": None}

    text = shown({0: status(0, **late), 1: status(1, **open_)}, width=80).partition("metrics (")[0]

    asked, fitted = (
        {line.split()[0]: " ".join(line.split()[1:]) for line in part.splitlines() if line.split()}
        for part in text.partition("questions and")[2].split("labels that did not fit")
    )
    assert asked["0"] == "102 90 2 10 90.0% 2 h 25 h"
    assert asked["1"] == "5 0 2 0 - - -"
    assert asked["all"] == "107 90 4 10 90.0% 2 h 25 h"
    assert fitted["0"] == fitted["all"] == "0 5 (5.0%) 3 (3.0%) 2 (2.0%) 0"
    assert fitted["1"] == "- - - - -"


def test_labels_that_come_with_their_features_have_no_table() -> None:
    assert "coverage" not in shown({0: status(0, pending=0), 1: status(1, pending=0)})


def test_shares_and_delays_of_the_pipeline_are_those_of_all_partitions_together() -> None:
    histogram = {"bounds": [0.0, 1.0], "counts": [0, 1, 2]}
    first = {"joined": 30, "label_delay": {"p50": 1.0, "p95": 9.0}, "label_delay_histogram": histogram}
    second = {"expired": 10, "late": 10, "label_delay": {"p50": 2.0, "p95": 3.0}}
    second |= {"label_delay_histogram": histogram}

    totals = view({0: status(0, **first), 1: status(1, **second)}).totals

    assert totals["label_health"]["coverage"] == 0.75
    assert totals["label_health"]["late"] == 0.25
    assert totals["label_delay"] == {"p50": 2.0, "p95": 9.0}
    assert totals["label_delay_histogram"] == {"bounds": [0.0, 1.0], "counts": [0, 2, 4]}


def test_a_status_of_an_older_worker_has_no_shares_of_what_it_did_not_count() -> None:
    totals = view({0: status(0)}).totals

    assert totals["label_health"]["coverage"] is None
    assert (totals["late"], totals["label_delay"], totals["label_delay_histogram"]) == (0, None, None)


def test_the_tables_show_positions_metrics_baselines_and_the_last_drift() -> None:
    text = shown({0: status(0)})

    assert "@42 error (adwin)" in text
    assert "0.5000 (0.6000)" in text
    assert "no-change" in text
    assert "0.4000 (0.3000)" in text
    assert "mean, weighted by events" in text
    assert "never" in text  # partition 1 has no status
