from __future__ import annotations

import datetime as dt
import json
import math
import random
from pathlib import Path
from typing import Any

import pytest
import river
from river import base, compose, evaluate, linear_model, naive_bayes, preprocessing, tree

import stream
from learners import LearnerError
from monitors import DriftWatch
from stream.backtesting import BacktestResult, backtest, backtest_file
from stream.build import new_estimator
from stream.errors import ConfigError
from stream.rows import RowError
from stream.settings import Settings, load_settings

# River's metrics and data sets have no annotations.
datasets: Any = river.datasets
metrics: Any = river.metrics


def logistic() -> base.Estimator:
    return preprocessing.StandardScaler() | linear_model.LogisticRegression()


def settings(tmp_path: Path, more: str = "", features: str = "{ except = [] }") -> Settings:
    path = tmp_path / "test.toml"
    path.write_text(
        'name = "test"\ntask = "binary"\n[topics]\nevents = "test"\n'
        f'[learner]\nuse = "logistic-regression"\n[event]\nfeatures = {features}\n{more}'
    )
    return load_settings(path, {})


def jumping_errors(count: int = 600, jump: int = 300) -> list[tuple[dict[str, float], bool]]:
    """A constant answers right for 9 in 10 rows, then for 3 in 10."""
    return [({"f": 1.0}, i % 10 >= (1 if i < jump else 7)) for i in range(count)]


class Constant(base.Classifier):
    def __init__(self, fails_on: float = math.nan) -> None:
        self.fails_on = fails_on

    def learn_one(self, x: Any, y: Any) -> None:
        if x["f"] == self.fails_on:
            raise ValueError("not this one")

    def predict_proba_one(self, x: Any, **kwargs: Any) -> dict[Any, float]:
        return {True: 0.9, False: 0.1}


def test_it_is_exported_by_the_package() -> None:
    assert stream.backtest is backtest
    assert stream.BacktestResult is BacktestResult
    with pytest.raises(AttributeError, match="no attribute 'backtset'"):
        stream.backtset  # noqa: B018


def test_binary_figures_are_rivers_to_the_last_digit() -> None:
    accuracy, roc_auc = metrics.Accuracy(), metrics.ROCAUC()
    evaluate.progressive_val_score(datasets.Phishing(), logistic(), accuracy)
    evaluate.progressive_val_score(datasets.Phishing(), logistic(), roc_auc)

    result = backtest(datasets.Phishing(), logistic())

    assert result.task == "binary"
    assert result.metrics["accuracy"]["value"] == accuracy.get()
    assert result.metrics["roc_auc"]["value"] == roc_auc.get()


def test_multiclass_figures_are_rivers_on_rows_with_text_labels() -> None:
    rows = [(x, str(y)) for x, y in datasets.ImageSegments().take(300)]
    f1 = metrics.MacroF1()
    evaluate.progressive_val_score(rows, tree.HoeffdingTreeClassifier(grace_period=50), f1)

    result = backtest(rows, tree.HoeffdingTreeClassifier(grace_period=50), metrics=["macro_f1"])

    assert result.task == "multiclass"
    assert result.metrics["macro_f1"]["value"] == f1.get()


def test_numbers_as_classes_become_text() -> None:
    rows = [({"f": i % 3 + i / 100}, i % 3) for i in range(30)]
    model: Any = naive_bayes

    result = backtest(rows, model.GaussianNB(), task="multiclass", predictions=True, verify=True)

    assert result.predictions is not None
    assert {body["prediction"] for body in result.predictions} == {None, "0", "1", "2"}
    assert result.equal is True


def test_regression_figures_are_rivers() -> None:
    model = preprocessing.StandardScaler() | linear_model.LinearRegression()
    mae = metrics.MAE()
    evaluate.progressive_val_score(datasets.TrumpApproval(), model.clone(), mae)

    result = backtest(datasets.TrumpApproval(), model)

    assert result.task == "regression"
    assert result.metrics["mae"]["value"] == mae.get()


def test_verify_compares_with_rivers_own_evaluation() -> None:
    result = backtest(datasets.Phishing().take(200), logistic(), verify=True)

    assert result.equal is True
    assert result.expected == {name: figures["value"] for name, figures in result.metrics.items()}


def test_a_figure_that_differs_in_the_last_digit_is_not_equal_and_says_so() -> None:
    result = backtest(datasets.Phishing().take(200), logistic(), metrics=["roc_auc"], verify=True)
    assert result.expected is not None
    value = result.expected["roc_auc"]
    assert value is not None

    expected = result.expected
    expected["roc_auc"] = math.nextafter(value, 1.0)  # type: ignore[index]  # a mapping to others, a dict here

    assert result.equal is False
    assert "NO" in repr(result)


def test_the_estimator_that_was_given_stays_as_it_was_and_the_result_has_the_one_that_learned() -> None:
    model = logistic()

    first = backtest(datasets.Phishing().take(100), model)
    again = backtest(datasets.Phishing().take(100), model)

    assert first.metrics == again.metrics
    assert len(model["LogisticRegression"].weights) == 0  # type: ignore[index]  # a pipeline
    assert len(first.estimator["LogisticRegression"].weights) == 9  # type: ignore[index]  # a pipeline


def test_alerts_come_with_the_row_that_made_the_detector_speak() -> None:
    result = backtest(
        jumping_errors(), Constant(), task="binary", drift=[("error", "adwin"), DriftWatch("error", "ddm")]
    )

    drifts = [alert for alert in result.alerts if alert.kind == "drift"]
    assert {alert.detector for alert in drifts} == {"adwin", "ddm"}
    assert all(300 <= alert.offset < 400 for alert in drifts)
    assert result.alert_count == len(result.alerts)
    assert f"Drift: ddm on error at row {next(a.offset for a in drifts if a.detector == 'ddm')}" in repr(
        result
    )


def test_rows_that_are_no_events_and_rows_on_which_the_learner_raises_are_dead_letters() -> None:
    rows: list[tuple[dict[str, Any], Any]] = [({"f": 1.0}, True), ({"f": 2.0}, "maybe"), ({"f": 3.0}, False)]

    result = backtest(rows, Constant(fails_on=3.0), task="binary", verify=True)

    assert [(row.offset, row.stage, row.error) for row in result.dead_letters] == [
        (1, "decode", "RecordError"),
        (2, "learn", "ValueError"),
    ]
    assert result.dead_letters[1].message == "not this one"
    assert result.equal is None
    assert "Not compared" in repr(result)
    assert "Dead letter (learn; row 2): not this one" in repr(result)


def test_a_learner_that_loses_to_a_baseline_is_said_to_lose() -> None:
    rows = [({"f": 1.0}, i > 50) for i in range(100)]

    assert "loses to no-change: accuracy" in repr(backtest(rows, Constant(), task="binary"))


def test_limit_takes_the_first_rows() -> None:
    result = backtest(datasets.Phishing(), logistic(), limit=10, predictions=True)

    assert result.rows == 10
    assert result.predictions is not None
    assert [body["offset"] for body in result.predictions] == list(range(10))


def test_no_rows_make_a_result_without_figures() -> None:
    result = backtest([], logistic(), verify=True)

    assert (result.rows, result.metrics["accuracy"]["value"], result.equal) == (0, None, None)
    assert "0 rows" in repr(result)


def test_a_task_or_a_metric_that_does_not_fit_is_refused() -> None:
    with pytest.raises(LearnerError, match="needs a regressor"):
        backtest([], logistic(), task="regression")
    with pytest.raises(ValueError, match='"mae" is for regression'):
        backtest([], logistic(), metrics=["mae"])


def test_settings_have_their_own_task_and_metrics(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="go with an estimator"):
        backtest([], settings(tmp_path), metrics=["f1"])


def test_a_value_that_json_has_no_name_for_is_refused_with_its_row() -> None:
    with pytest.raises(RowError, match="row 1: it can't be written as JSON"):
        backtest([({"f": 1.0}, True), ({"f": object()}, True)], logistic())


def test_rows_and_a_file_of_the_same_rows_give_the_same(tmp_path: Path) -> None:
    rows = list(datasets.Phishing().take(100))
    path = tmp_path / "rows.csv"
    lines = [",".join([*map(str, x.values()), str(y)]) for x, y in rows]
    path.write_text("\n".join([",".join([*rows[0][0], "label"]), *lines]))
    pipeline = settings(tmp_path)

    from_file = backtest_file(pipeline, path, verify=True)
    from_rows = backtest(rows, pipeline.path)

    assert from_file.metrics == from_rows.metrics == backtest(rows, pipeline).metrics
    assert from_file.equal is True


def test_a_dead_letter_of_a_file_names_its_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"f": 1, "label": 1}\n\ngarbage\n')

    result = backtest_file(settings(tmp_path), path)

    assert [(row.offset, row.line) for row in result.dead_letters] == [(1, 3)]
    assert "line 3" in repr(result)


def test_an_event_without_time_counts_as_at_the_latest_time_seen(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows: list[dict[str, object]] = [
        {"id": "a", "f": 1, "at": "2026-01-01T00:00:00Z"},
        {"id": "b", "f": 2},
        {"id": "a", "label": 1, "at": "2026-01-01T00:00:05Z"},
        {"id": "b", "label": 1, "at": "2026-01-01T00:00:11Z"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    pipeline = settings(tmp_path, 'time = "at"\n[labels]\nexpire_after_seconds = 10\n')

    result = backtest_file(pipeline, path, verify=True)

    assert (result.learned, result.expired, result.labels["late"], result.dead_letter_count) == (1, 1, 1, 0)
    assert "Questions: 2; 1 joined with their label, 1 expired, 0 wait for it." in repr(result)
    assert "Labels: 1 late." in repr(result)
    assert "hold questions or answers" in result.not_compared


def test_progress_is_told_every_thousand_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("f,label\n" + "1,1\n" * 2100)
    told: list[int] = []

    backtest_file(settings(tmp_path), path, on_row=told.append)

    assert told == [1000, 2000]


def test_the_result_is_a_table_in_a_notebook_and_json_for_a_program() -> None:
    result = backtest(datasets.Phishing().take(50), logistic(), verify=True)

    page = result._repr_html_()
    body = json.loads(json.dumps(result.to_dict(), default=str))

    assert page.startswith("<table><caption>backtest: StandardScaler | LogisticRegression (binary)")
    assert "<td>accuracy</td>" in page
    assert body["metrics"]["accuracy"]["value"] == result.metrics["accuracy"]["value"]
    assert body["equal"] is True


# --- Late labels -----------------------------------------------------------------------------------------


def late_rows(count: int = 300) -> list[Any]:
    """Rows with their number as a feature, by which the tests know when each is asked."""
    return [(x | {"#": number}, y) for number, (x, y) in enumerate(datasets.Phishing().take(count))]


@pytest.mark.parametrize(
    ("moment", "delay"),
    [
        (None, 50),
        ("#", 50),
        (lambda x: x["#"] * 0.5, 7.25),
        (lambda x: dt.datetime(2026, 3, 1) + dt.timedelta(minutes=x["#"]), dt.timedelta(hours=1)),
        (lambda x: dt.date(2026, 3, 1) + dt.timedelta(days=x["#"]), dt.timedelta(days=7)),
        ("#", "length_of_url"),
        (None, lambda x, y: random.Random(x["#"]).randrange(100)),
        (lambda x: -x["#"], 3),  # the later rows come from earlier
    ],
    ids=["rows", "feature", "seconds", "times", "dates", "a-feature", "random", "backwards"],
)
def test_late_labels_give_rivers_figures_to_the_last_digit(moment: Any, delay: Any) -> None:
    rows = [(x | {"length_of_url": x["#"] * 13 % 29}, y) for x, y in late_rows()]
    accuracy, roc_auc = metrics.Accuracy(), metrics.ROCAUC()
    for metric in (accuracy, roc_auc):
        evaluate.progressive_val_score(rows, logistic(), metric, moment=moment, delay=delay)

    result = backtest(rows, logistic(), moment=moment, delay=delay, verify=True)

    assert result.metrics["accuracy"]["value"] == accuracy.get()
    assert result.metrics["roc_auc"]["value"] == roc_auc.get()
    assert result.equal is True
    assert (result.rows, result.labels["joined"], result.pending) == (300, 300, 0)
    at_once = backtest(rows, logistic())
    assert result.metrics != at_once.metrics, "the delay makes a difference"


def test_a_moment_is_the_event_time_and_the_label_delay_is_measured() -> None:
    result = backtest(
        late_rows(),
        logistic(),
        moment=lambda x: dt.datetime(2026, 3, 1) + dt.timedelta(minutes=x["#"]),
        delay=dt.timedelta(hours=1),
        predictions=True,
    )

    assert result.label_delay == {"p50": 3_600.0, "p95": 3_600.0, "count": 300}
    assert "Label delay: median 3,600 s, 95 % within 3,600 s." in repr(result)
    assert result.predictions is not None
    assert result.predictions[1]["time"] == dt.datetime(2026, 3, 1, 0, 1, tzinfo=dt.UTC).timestamp()


def test_where_rows_are_only_counted_no_label_delay_in_seconds_is_told() -> None:
    result = backtest(late_rows(), logistic(), delay=50)

    assert result.label_delay is None
    assert "Label delay" not in repr(result)


def test_without_settings_a_question_waits_for_its_label_for_ever() -> None:
    result = backtest(late_rows(20), logistic(), moment=lambda x: x["#"] * 1e7, delay=1e9, verify=True)

    assert result.equal is True
    assert (result.labels["joined"], result.expired) == (20, 0)


def test_a_moment_without_a_delay_is_refused() -> None:
    with pytest.raises(TypeError, match="moment is given without delay"):
        backtest(late_rows(5), logistic(), moment="#")


@pytest.mark.parametrize(
    ("moment", "delay", "reason"),
    [
        ("#", dt.timedelta(1), "row 0: its moment is 0 and its delay datetime.timedelta.*what can be added"),
        ("at", 1, "row 0: there is no 'at' in it, which moment or delay names"),
        (
            lambda x: "now",
            "text",
            "row 0: its moment is 'now'; expected a time, a date or a number of seconds",
        ),
    ],
)
def test_a_moment_or_a_delay_that_makes_no_sense_is_named(moment: Any, delay: Any, reason: str) -> None:
    rows = [(x | {"text": "a"}, y) for x, y in late_rows(5)]

    with pytest.raises(RowError, match=reason):
        backtest(rows, logistic(), moment=moment, delay=delay)


def timed_file(tmp_path: Path, count: int = 200, **more: Any) -> Path:
    """Labelled events a minute apart."""
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": f"e{i}", "f": i % 7, "g": i % 3, "at": 1_700_000_000 + 60 * i, "label": i % 5 < 2} | more
        for i in range(count)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


LABELS = "[labels]\nexpire_after_seconds = {}\n{}\n"


def test_a_file_with_labels_an_hour_late_is_rivers_with_a_delay_of_sixty_rows(tmp_path: Path) -> None:
    pipeline = settings(tmp_path, 'time = "at"\n')

    result = backtest_file(pipeline, timed_file(tmp_path), delay=3_600, verify=True)

    assert result.equal is True
    assert (result.rows, result.labels["questions"], result.labels["joined"]) == (200, 200, 200)
    assert result.label_delay == {"p50": 3_600.0, "p95": 3_600.0, "count": 200}
    at_once = backtest_file(pipeline, timed_file(tmp_path))
    rows: list[Any] = [({"f": i % 7, "g": i % 3, "at": i}, i % 5 < 2) for i in range(200)]
    accuracy = metrics.Accuracy()
    evaluate.progressive_val_score(rows, compose.Discard("at") | new_estimator(pipeline), accuracy, delay=60)
    assert result.metrics["accuracy"]["value"] == accuracy.get()
    assert at_once.metrics["accuracy"]["value"] != accuracy.get()


def test_labels_later_than_the_wait_are_late_and_silence_is_learned_in_their_place(tmp_path: Path) -> None:
    pipeline = settings(tmp_path, 'time = "at"\n' + LABELS.format(1_800, "silence = false"))

    result = backtest_file(pipeline, timed_file(tmp_path), delay=3_600, verify=True)

    assert (result.labels["joined"], result.labels["late"]) == (0, 200)
    assert (result.expired, result.labels["expired_learned"], result.learned) == (200, 200, 200)
    assert result.not_compared == "not every label was joined with its row and learned"
    assert "200 expired (200 learned as what silence means), 0 wait for it." in repr(result)
    assert "Labels: 200 late." in repr(result)


def test_a_field_says_how_late_each_label_is_and_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": i, "f": i % 7, "at": 1_700_000_000 + 60 * i, "label": i % 5 < 2, "wait": i * 97 % 7_000}
        for i in range(200)
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    pipeline = settings(tmp_path, 'time = "at"\n')

    result = backtest_file(pipeline, path, delay="wait", verify=True)

    assert result.equal is True
    assert result.label_delay is not None
    assert result.label_delay["p95"] == sorted(i * 97 % 7_000 for i in range(200))[189]
    assert "wait" not in str(vars(result.estimator["LogisticRegression"]))  # type: ignore[index]  # a pipeline


def test_a_label_that_never_comes_is_one_with_a_very_long_delay(tmp_path: Path) -> None:
    """A number of seconds beyond the year 5138 would be taken for milliseconds, and so for a label before its row."""
    pipeline = settings(tmp_path, 'time = "at"\n')

    result = backtest_file(pipeline, timed_file(tmp_path), delay=1e12)

    assert (result.labels["joined"], result.expired, result.labels["late"]) == (0, 200, 200)
    assert result.label_delay is None


def test_what_is_no_labelled_event_stays_in_its_place(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"id": "a", "f": 1, "at": 1_000, "label": 1},
        {"id": "q", "f": 1, "at": 1_010},
        {"id": "q", "label": 1, "at": 1_020},
        {"f": [], "at": 1_025, "label": 1},
        {"id": "a", "f": 1, "at": 1_030, "label": 1},
        {"id": "b", "f": 1, "at": 5_000, "label": 0},
    ]
    path.write_text("\n".join([*map(json.dumps, rows), "no event"]))
    pipeline = settings(tmp_path, 'time = "at"\n')

    result = backtest_file(pipeline, path, delay=100, verify=True)

    assert (result.rows, result.labels["joined"], result.duplicates, result.dead_letter_count) == (7, 3, 1, 2)
    assert (result.labels["duplicate_labels"], result.labels["early"]) == (1, 0)
    assert [row.line for row in result.dead_letters] == [4, 7]
    assert result.not_compared == "the rows hold questions or answers of their own"


@pytest.mark.parametrize(
    ("wait", "what"), [(None, "missing"), ("soon", '"soon"'), (-1, "-1"), (True, "true")]
)
def test_a_delay_that_is_no_number_is_named_with_its_line(tmp_path: Path, wait: object, what: str) -> None:
    with pytest.raises(RowError, match=f'line 1: field "wait" is {what}; expected the label\'s delay'):
        backtest_file(settings(tmp_path, 'time = "at"\n'), timed_file(tmp_path, 3, wait=wait), delay="wait")


def test_a_delay_needs_the_time_of_events(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\[event\] time is missing, and --delay counts seconds"):
        backtest_file(settings(tmp_path), timed_file(tmp_path, 3), delay=10)
