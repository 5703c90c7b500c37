from __future__ import annotations

import math
import sys
from typing import Any

import pytest
from rich.console import Console

from examples import demo
from examples.demo import (
    Comparison,
    DemoFailed,
    Read,
    compare,
    drifting_rows,
    events_per_second,
    judge,
    real_rows,
)
from stream.backtesting import backtest
from stream.cli import HASH_SEED
from stream.errors import EnvironmentRefused
from stream.settings import Settings, load_settings


def alert(detector: str, offset: int, *, rose: bool = True, kind: str = "drift") -> dict[str, Any]:
    before, after = (0.1, 0.5) if rose else (0.5, 0.1)
    return {"detector": detector, "kind": kind, "offset": offset, "mean_before": before, "mean_after": after}


def settings(name: str = "phishing") -> Settings:
    return load_settings(demo.FOLDER / f"{name}.toml", {})


def read_back(rows: demo.Rows, pipeline: Settings) -> Read:
    """What Kafka would give back for one partition, from the same pipeline without a broker."""
    result = backtest(rows, pipeline, predictions=True)
    assert result.predictions is not None
    status = {
        "metrics": result.metrics,
        "baselines": result.baselines,
        "events": result.events,
        "rate": 100.0,
    }
    return Read([[dict(body) for body in result.predictions]], [], 0, [[status]])


@pytest.mark.parametrize("dataset", ["phishing", "images", "trump"])
def test_each_data_set_gives_three_equal_numbers(dataset: str) -> None:
    rows = real_rows(dataset, limit=150)
    pipeline = settings(dataset)

    found = compare(pipeline, rows, read_back(rows, pipeline))

    assert [item.metric for item in found] == list(pipeline.metrics.use)
    assert all(item.equal for item in found)


@pytest.mark.parametrize("which", ["streamed", "read_back", "expected"])
def test_a_number_that_differs_in_its_last_digit_is_not_equal(which: str) -> None:
    numbers = {"streamed": 0.1, "read_back": 0.1, "expected": 0.1}

    assert Comparison(partition=0, metric="accuracy", **numbers).equal
    assert not Comparison(partition=0, metric="accuracy", **(numbers | {which: math.nextafter(0.1, 1)})).equal


def test_numbers_that_are_missing_are_not_equal() -> None:
    assert not Comparison(partition=0, metric="accuracy", streamed=None, read_back=None, expected=None).equal


def test_a_wrong_prediction_among_those_read_back_is_noticed() -> None:
    rows = real_rows("phishing", limit=50)
    read = read_back(rows, settings())
    read.predictions[0][20]["prediction"] = not read.predictions[0][20]["prediction"]

    found = {item.metric: item.equal for item in compare(settings(), rows, read)}

    assert found == {"accuracy": False, "roc_auc": True, "log_loss": True}


def test_a_prediction_that_is_missing_or_there_twice_fails_the_demo() -> None:
    rows = real_rows("phishing", limit=50)
    read = read_back(rows, settings())

    lost = read._replace(predictions=[read.predictions[0][:-1]])
    twice = read._replace(predictions=[[*read.predictions[0], read.predictions[0][-1]]])

    for wrong in (lost, twice):
        with pytest.raises(DemoFailed, match="expected each once and in order"):
            compare(settings(), rows, wrong)


def test_a_dead_letter_fails_the_demo() -> None:
    rows = real_rows("phishing", limit=50)

    with pytest.raises(DemoFailed, match="2 records went to the dead-letter topic"):
        compare(settings(), rows, read_back(rows, settings())._replace(dead_letters=2))


def test_the_first_alarm_after_a_drift_finds_it_and_a_second_one_is_false() -> None:
    judged = judge("ddm", [alert("ddm", 130), alert("ddm", 110), alert("adwin", 105)], [100, 200], within=50)

    assert judged.delays == [10, None]
    assert (judged.recoveries, judged.false_alarms, judged.warnings) == (0, 1, 0)


def test_an_alarm_before_the_drift_or_long_after_it_is_false() -> None:
    judged = judge("ddm", [alert("ddm", 99), alert("ddm", 150)], [100], within=50)

    assert (judged.delays, judged.false_alarms) == ([None], 2)


def test_an_alarm_because_the_error_fell_is_a_recovery_and_a_warning_is_no_alarm() -> None:
    alerts = [
        alert("ddm", 102, kind="warning"),
        alert("ddm", 104),
        alert("ddm", 140, rose=False),
        alert("ddm", 190, rose=False),
    ]

    judged = judge("ddm", alerts, [100], within=50)

    assert (judged.delays, judged.recoveries, judged.false_alarms, judged.warnings) == ([4], 2, 0, 1)


def test_the_rate_counts_every_status_with_the_time_it_stands_for() -> None:
    statuses = [{"events": 100, "rate": 50.0}, {"events": 100, "rate": 0.0}, {"events": 400, "rate": 150.0}]

    assert events_per_second(statuses) == 100.0
    assert events_per_second([]) == 0.0


def test_the_drifting_rows_are_the_same_each_time() -> None:
    rows = drifting_rows()

    assert rows == drifting_rows()
    assert len(rows) == demo.EVENTS_A_CONCEPT * len(demo.CONCEPTS)


@pytest.mark.parametrize(
    ("outcome", "code", "said"),
    [
        (True, 0, "All numbers are equal"),
        (False, 1, "NOT EQUAL"),
        (DemoFailed("the worker ended"), 1, "The demo failed: the worker ended"),
        (EnvironmentRefused("no broker"), 1, "The demo failed: no broker"),
        (KeyboardInterrupt(), 130, "Stopped."),
    ],
)
def test_the_exit_code_says_how_it_ended(
    outcome: bool | BaseException,
    code: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def run_demo(*args: object, **kwargs: object) -> bool:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    monkeypatch.setattr(demo, "run_demo", run_demo)
    monkeypatch.setattr("signal.signal", lambda *args: None)
    monkeypatch.setattr(sys, "argv", ["demo.py"])
    monkeypatch.setenv("PYTHONHASHSEED", HASH_SEED)

    assert demo.main() == code
    assert said in capsys.readouterr().out


def test_unequal_numbers_are_shown_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    demo.show_figures(
        Console(width=100),
        [Comparison(partition=0, metric="accuracy", streamed=0.5, read_back=0.25, expected=0.75)],
    )

    shown = capsys.readouterr().out
    assert "NO" in shown
    assert "from the predictions read back is 0.25" in shown
