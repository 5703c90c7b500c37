from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest
from river import base

from monitors import Alarm, DriftMonitor, Prequential
from stream.build import new_pipeline
from stream.pipeline import MAX_CLASSES, Pipeline
from stream.records import Output
from stream.settings import Settings
from tests.helpers import body, decoded, record, settings_for

X = dict[Hashable, Any]
WITH_OUTCOMES: dict[str, Any] = {"topics": {"events": "events", "outcomes": "outcomes"}}


class Recorder(base.Classifier):
    """A classifier that writes down what it is asked, and predicts how often it has learned."""

    def __init__(
        self, calls: list[Any] | None = None, fail_on: str = "", error: type[Exception] = ValueError
    ) -> None:
        self.calls: list[Any] = [] if calls is None else calls
        self.fail_on = fail_on
        self.error = error

    def predict_proba_one(self, x: X, **kwargs: Any) -> dict[Any, float]:
        self._called("predict", x)
        return {False: 0.25, True: 0.75}

    def learn_one(self, x: X, y: Any) -> None:
        self._called("learn", x, y)

    def _called(self, name: str, *arguments: Any) -> None:
        if name == self.fail_on and arguments[0].get("bad"):
            raise self.error("no such thing")
        self.calls.append((name, *arguments))


def run(pipeline: Pipeline, *values: bytes | None, first: int = 0) -> list[Output]:
    """The outputs of some records, whose timestamps are their offsets in seconds."""
    return [output for i, value in enumerate(values) for output in pipeline.process(record(value, first + i))]


def kinds(outputs: Sequence[Output]) -> list[str]:
    return [output.to for output in outputs]


def headers(output: Output) -> dict[str, bytes | None]:
    return dict(output.headers or ())


# Order ----------------------------------------------------------------------------------------------------------


def watching(calls: list[Any], monkeypatch: pytest.MonkeyPatch, settings: Settings) -> Pipeline:
    """A pipeline whose parts write down when they are called."""
    for owner, name in ((Prequential, "update"), (DriftMonitor, "predicted"), (DriftMonitor, "labelled")):
        original = getattr(owner, name)

        def noted(self: Any, *arguments: Any, original: Any = original, name: str = name) -> Any:
            calls.append((name, *arguments[:2]))
            return original(self, *arguments)

        monkeypatch.setattr(owner, name, noted)
    return new_pipeline(settings, Recorder(calls))


DRIFTING = settings_for(
    drift=[{"watch": "error", "detector": "ddm"}, {"watch": "feature:a", "detector": "adwin"}],
    **WITH_OUTCOMES,
)


def test_a_labelled_event_is_predicted_scored_watched_and_learned_in_this_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    pipeline = watching(calls, monkeypatch, DRIFTING)

    outputs = run(pipeline, body(features={"a": 1}, label=False))

    x = {"a": 1}
    assert calls == [
        ("predict", x),
        ("update", False, True),
        ("predicted", x, True),
        ("labelled", False, True),
        ("learn", x, False),
    ]
    assert kinds(outputs) == ["predictions", "outcomes"]


def test_a_question_is_predicted_and_an_answer_scored_watched_and_learned_on_the_questions_features(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[Any] = []
    pipeline = watching(calls, monkeypatch, DRIFTING)

    question = run(pipeline, body(id=1, features={"a": 1}))
    assert calls == [("predict", {"a": 1}), ("predicted", {"a": 1}, True)]
    assert kinds(question) == ["predictions"]

    del calls[:]
    answer = run(pipeline, body(id=1, label=False), first=1)
    assert calls == [("update", False, True), ("labelled", False, True), ("learn", {"a": 1}, False)]
    assert kinds(answer) == ["outcomes"]


def test_a_labelled_event_whose_question_waits_answers_it() -> None:
    learner = Recorder()
    pipeline = new_pipeline(settings_for(**WITH_OUTCOMES), learner)

    outputs = run(pipeline, body(id=1, features={"a": 1}), body(id=1, features={"a": 99}, label=True))

    assert learner.calls == [("predict", {"a": 1}), ("learn", {"a": 1}, True)]
    assert kinds(outputs) == ["predictions", "outcomes"]


def test_a_labelled_event_whose_question_has_expired_is_late() -> None:
    learner = Recorder()
    pipeline = new_pipeline(settings_for(labels={"expire_after_seconds": 60}), learner)
    run(pipeline, body(id=1, features={"a": 1}))

    outputs = pipeline.process(record(body(id=1, features={"a": 2}, label=True), 61))

    assert kinds(outputs) == []
    assert learner.calls[1:] == []
    assert (pipeline.state.labels.expired, pipeline.state.labels.late) == (1, 1)


def test_a_labelled_event_whose_question_is_forgotten_stands_for_itself() -> None:
    learner = Recorder()
    pipeline = new_pipeline(
        settings_for(labels={"expire_after_seconds": 60, "remember": 0}, event={"id_window": 0}), learner
    )
    run(pipeline, body(id=1, features={"a": 1}))

    outputs = pipeline.process(record(body(id=1, features={"a": 2}, label=True), 61))

    assert kinds(outputs) == ["predictions"]
    assert learner.calls[1:] == [("predict", {"a": 2}), ("learn", {"a": 2}, True)]
    assert (pipeline.state.labels.expired, pipeline.state.labels.unmatched) == (1, 0)


# What is written ------------------------------------------------------------------------------------------------


def test_a_prediction_says_what_of_which_event_by_whom() -> None:
    pipeline = new_pipeline(settings_for(), Recorder())
    run(pipeline, body(features={"a": 1}, label=True))

    (output,) = pipeline.process(record(body(id="i", features={"a": 1}, label=True), 7, key=b"\xff"))

    assert output.key == b"\xff"
    assert output.headers is None
    assert decoded([output], "predictions") == [
        {
            "id": "i",
            "partition": 0,
            "offset": 7,
            "time": 7.0,
            "prediction": True,
            "scores": {"false": 0.25, "true": 0.75},
            "learner": "Recorder",
            "learned": 1,
        }
    ]


def test_scores_are_absent_where_there_are_none() -> None:
    first = run(new_pipeline(settings_for("multiclass")), body(features={"a": 1}, label="x"))
    number = run(new_pipeline(settings_for("regression")), body(features={"a": 1}, label=1))

    assert decoded(first, "predictions")[0]["prediction"] is None
    assert "scores" not in decoded(first, "predictions")[0]
    assert decoded(number, "predictions")[0]["prediction"] == 0.0
    assert "scores" not in decoded(number, "predictions")[0]


def test_an_outcome_joins_a_prediction_and_its_label() -> None:
    pipeline = new_pipeline(
        settings_for(event={"time": "at"}, **WITH_OUTCOMES),
        Recorder(),
    )

    outputs = run(pipeline, body(id=1, features={"a": 1}, at=100), b"{}", body(id=1, label=0, at=160.5))

    assert decoded(outputs, "outcomes") == [
        {
            "id": 1,
            "state": "joined",
            "partition": 0,
            "offset": 0,
            "label_offset": 2,
            "time": 100.0,
            "label_time": 160.5,
            "prediction": True,
            "label": False,
            "error": 1,
            "label_delay_seconds": 60.5,
        }
    ]


def test_an_outcome_of_a_number_has_the_absolute_error() -> None:
    outputs = run(
        new_pipeline(settings_for("regression", **WITH_OUTCOMES)), body(features={"a": 1}, label=-2.5)
    )

    assert decoded(outputs, "outcomes")[0]["error"] == 2.5
    assert decoded(outputs, "outcomes")[0]["label_delay_seconds"] == 0


def test_outcomes_are_written_only_where_the_settings_want_them() -> None:
    outputs = run(new_pipeline(settings_for()), body(features={"a": 1}, label=True))

    assert kinds(outputs) == ["predictions"]


def test_an_alert_says_where_and_what_the_detector_saw() -> None:
    settings = settings_for(drift=[{"watch": "label", "detector": "adwin"}])
    pipeline = new_pipeline(settings, Recorder())

    outputs = run(pipeline, *[body(features={"a": 1}, label=i >= 300) for i in range(600)])

    (alert,) = decoded(outputs, "alerts")[:1]
    assert 300 < alert["offset"] < 400
    assert alert["time"] == alert["offset"]
    assert (alert["pipeline"], alert["partition"], alert["kind"]) == ("p", 0, "drift")
    assert (alert["watch"], alert["detector"]) == ("label", "adwin")
    assert alert["mean_before"] < alert["mean_after"]


def test_the_delay_of_each_label_that_finds_its_question_is_watched_and_of_no_other() -> None:
    pipeline = new_pipeline(settings_for(drift=[{"watch": "label_delay", "detector": "adwin"}]))

    run(
        pipeline,
        body(id="early", label=True),
        body(id="a", features={"a": 1}),
        body(id="early", features={"a": 1}),
        body(id="a", label=True),
        body(id="b", features={"a": 1}, label=True),
        body(id="a", label=True),
        body(id="never", label=True),
    )

    (watched,) = pipeline.state.drift.status()
    assert watched["observed"] == 2
    assert watched["mean_now"] == pytest.approx((-2.0 + 2.0) / 2)
    assert sorted(pipeline.state.labels.delays) == [-2.0, 2.0]


def test_a_drift_of_the_label_delay_is_an_alert_at_the_label() -> None:
    values = [
        value
        for i in range(400)
        for value in (
            {"id": i, "at": 100.0 * i, "features": {"a": 1}},
            {"id": i, "at": 100.0 * i + (5.0 if i < 200 else 90.0), "label": True},
        )
    ]

    pipeline = new_pipeline(
        settings_for(
            drift=[{"watch": "label_delay", "detector": "adwin"}],
            event={"time": "at", "max_ahead_seconds": 1e9},
        )
    )
    outputs = run(pipeline, *[body(**value) for value in values])

    alert = decoded(outputs, "alerts")[0]
    assert (alert["watch"], alert["kind"]) == ("label_delay", "drift")
    assert alert["offset"] % 2 == 1
    assert alert["offset"] > 400
    assert alert["mean_before"] < alert["mean_after"]


@pytest.mark.parametrize("first", ["question", "label"])
def test_a_detector_of_the_label_delay_that_fails_makes_a_dead_letter(
    first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(drift=[{"watch": "label_delay", "detector": "adwin"}])
    pipeline = new_pipeline(settings, Recorder())

    def broken(seconds: float, at: int) -> tuple[Alarm, ...]:
        raise ArithmeticError("no number")

    monkeypatch.setattr(pipeline, "_watch_delay", broken)
    both = [body(id=1, features={"a": 1}), body(id=1, label=True)]

    outputs = run(pipeline, *(both if first == "question" else reversed(both)))

    assert kinds(outputs) == ["predictions", "dead_letters"]
    assert headers(outputs[1])["headrace.stage"] == b"drift"
    assert pipeline.state.labels.joined == 1


# Pending --------------------------------------------------------------------------------------------------------


def test_an_answer_to_nothing_is_counted_and_changes_nothing() -> None:
    learner = Recorder()
    pipeline = new_pipeline(settings_for(labels={"early_seconds": 0}, **WITH_OUTCOMES), learner)

    outputs = run(pipeline, body(id=1, label=True), body(id=1, features={"a": 1}), body(id=2, label=True))

    assert kinds(outputs) == ["outcomes", "predictions", "outcomes"]
    assert [item["state"] for item in decoded(outputs, "outcomes")] == ["unmatched"] * 2
    assert pipeline.state.labels.unmatched == 2
    assert learner.calls == [("predict", {"a": 1})]
    assert pipeline.state.events == 3


def test_a_second_question_with_a_waiting_id_is_counted_and_neither_asked_nor_learned() -> None:
    learner = Recorder()
    pipeline = new_pipeline(settings_for(), learner)

    outputs = run(
        pipeline, body(id=1, features={"a": 1}), body(id=1, features={"a": 2}), body(id=1, label=True)
    )

    assert kinds(outputs) == ["predictions"] * 2
    assert learner.calls[-1] == ("learn", {"a": 1}, True)
    assert (
        pipeline.state.duplicates,
        pipeline.state.labels.unmatched,
        len(pipeline.state.labels.pending),
    ) == (1, 0, 0)


def test_a_question_without_an_id_waits_for_nothing() -> None:
    pipeline = new_pipeline(settings_for())

    run(pipeline, body(features={"a": 1}), body(features={"a": 1}))

    assert len(pipeline.state.labels.pending) == 0
    assert pipeline.state.duplicates == 0


def test_questions_expire_by_event_time_even_if_nobody_answers() -> None:
    pipeline = new_pipeline(settings_for(event={"time": "at"}, labels={"expire_after_seconds": 60}))

    run(pipeline, body(id=1, features={"a": 1}, at=0), body(id=2, features={"a": 1}, at=3_000))
    assert (len(pipeline.state.labels.pending), pipeline.state.labels.expired) == (1, 1)

    # Time does not run backwards: an event from the past expires nothing, and is past itself.
    run(pipeline, body(id=3, features={"a": 1}, at=-5_000), body(id=3, label=1, at=-4_999), first=2)
    assert (pipeline.state.labels.expired, pipeline.state.labels.late) == (2, 1)
    assert pipeline.state.clock == 3_000


def test_at_capacity_the_oldest_question_expires() -> None:
    pipeline = new_pipeline(settings_for(labels={"capacity": 2}))

    run(
        pipeline, *[body(id=i, features={"a": 1}) for i in range(3)], *[body(id=i, label=1) for i in range(3)]
    )

    labels = pipeline.state.labels
    assert (labels.expired, labels.expired_early, labels.late) == (1, 1, 1)
    assert pipeline.state.learner.learned == 2


# Errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [None, b"", b"\xff", b"{}", b"[]", body(features={"a": []}, label=True)])
def test_what_is_no_event_goes_to_the_dead_letters_and_changes_nothing_else(value: bytes | None) -> None:
    learner = Recorder()
    pipeline = new_pipeline(settings_for(), learner)

    (letter,) = pipeline.process(record(value, 4, key=b"k", headers=[("h", b"1")]))

    assert (letter.to, letter.key, letter.value) == ("dead_letters", b"k", value)
    assert letter.headers is not None
    assert letter.headers[0] == ("h", b"1")
    assert headers(letter)["headrace.position"] == b"events[0]@4"
    assert headers(letter)["headrace.stage"] == b"decode"
    assert headers(letter)["headrace.error"] == b"RecordError"
    assert (pipeline.state.events, pipeline.state.dead_letters, learner.calls) == (0, 1, [])


def test_a_learner_that_raises_when_it_predicts_makes_a_dead_letter_and_learns_nothing() -> None:
    learner = Recorder(fail_on="predict")
    pipeline = new_pipeline(settings_for(**WITH_OUTCOMES), learner)

    outputs = run(pipeline, body(features={"bad": 1}, label=True), body(id=1, features={"bad": 1}))

    assert kinds(outputs) == ["dead_letters"] * 2
    for letter in outputs:
        assert headers(letter)["headrace.stage"] == b"predict"
        assert headers(letter)["headrace.error"] == b"ValueError"
        assert headers(letter)["headrace.message"] == b"no such thing"
    assert learner.calls == []
    assert (
        pipeline.state.predictions,
        len(pipeline.state.labels.pending),
        pipeline.state.prequential.scored,
    ) == (
        0,
        0,
        0,
    )


class OddClasses(Recorder):
    """Gives probabilities to classes that no JSON object can be sorted by."""

    def predict_proba_one(self, x: X, **kwargs: Any) -> dict[Any, float]:
        return {None: 0.5, 1j: 0.5}


def test_a_prediction_that_can_not_be_written_makes_a_dead_letter() -> None:
    pipeline = new_pipeline(settings_for(), OddClasses())

    (letter,) = run(pipeline, body(features={"a": 1}, label=True))

    assert headers(letter)["headrace.stage"] == b"predict"
    assert headers(letter)["headrace.error"] == b"TypeError"


def test_a_learner_that_raises_when_it_learns_leaves_the_prediction_and_a_dead_letter() -> None:
    pipeline = new_pipeline(settings_for(**WITH_OUTCOMES), Recorder(fail_on="learn"))

    labelled = run(pipeline, body(features={"bad": 1}, label=True))
    asked = run(pipeline, body(id=1, features={"bad": 1}), first=1)
    answered = run(pipeline, body(id=1, label=True), first=2)

    assert kinds(labelled) == ["predictions", "dead_letters", "outcomes"]
    assert kinds(asked) == ["predictions"]
    assert kinds(answered) == ["dead_letters", "outcomes"]
    assert answered[0].value == body(id=1, label=True)
    for letter in (labelled[1], answered[0]):
        assert headers(letter)["headrace.stage"] == b"learn"
    assert pipeline.state.learner.learned == 0
    assert pipeline.state.prequential.scored == 2
    assert pipeline.state.dead_letters == 2


def test_the_pipeline_goes_on_after_a_learner_raised() -> None:
    learner = Recorder(fail_on="learn", error=ZeroDivisionError)
    pipeline = new_pipeline(settings_for(), learner)

    outputs = run(pipeline, body(features={"bad": 1}, label=True), body(features={"a": 1}, label=True))

    assert kinds(outputs) == ["predictions", "dead_letters", "predictions"]
    assert pipeline.state.learner.learned == 1


@pytest.mark.parametrize("error", [MemoryError, OSError, ConnectionResetError, RecursionError])
@pytest.mark.parametrize("stage", ["predict", "learn"])
@pytest.mark.parametrize("late", [False, True])
def test_errors_that_are_no_function_of_the_log_are_not_swallowed(
    error: type[Exception], stage: str, late: bool
) -> None:
    pipeline = new_pipeline(settings_for(), Recorder(fail_on=stage, error=error))
    values = (
        [body(id=1, features={"bad": 1}), body(id=1, label=True)]
        if late
        else [body(features={"bad": 1}, label=1)]
    )

    with pytest.raises(error):
        run(pipeline, *values)

    assert pipeline.state.dead_letters == 0


@pytest.mark.parametrize("late", [False, True])
def test_a_prediction_that_is_no_number_where_one_is_watched_makes_a_dead_letter(late: bool) -> None:
    class Wordy(Recorder):
        def predict_proba_one(self, x: X, **kwargs: Any) -> dict[Any, float]:
            return {"spam": 1.0}

    pipeline = new_pipeline(settings_for(drift=[{"watch": "prediction", "detector": "adwin"}]), Wordy())

    outputs = run(pipeline, body(id=1, features={"a": 1}, **({} if late else {"label": True})))

    assert kinds(outputs) == ["predictions", "dead_letters"]
    assert headers(outputs[1])["headrace.stage"] == b"drift"


def test_class_number_1001_is_refused_and_the_thousand_go_on() -> None:
    pipeline = new_pipeline(settings_for("multiclass", learner={"use": "majority-class"}))
    run(pipeline, *[body(features={"a": 1}, label=i) for i in range(MAX_CLASSES)])
    assert pipeline.state.dead_letters == 0

    beyond = run(
        pipeline,
        body(features={"a": 1}, label="one more"),
        body(id=5, label="another"),
        body(features={"a": 1}, label=7),
        first=MAX_CLASSES,
    )

    assert kinds(beyond) == ["dead_letters", "dead_letters", "predictions"]
    assert b"one class too many; expected at most 1,000 classes" in (
        headers(beyond[0])["headrace.message"] or b""
    )
    assert pipeline.state.learner.learned == MAX_CLASSES + 1


def test_an_answer_to_nothing_takes_no_class() -> None:
    pipeline = new_pipeline(
        settings_for("multiclass", learner={"use": "majority-class"}, labels={"early_seconds": 0})
    )

    run(pipeline, *[body(id=i, label=f"junk {i}") for i in range(MAX_CLASSES + 1)])

    assert pipeline.state.classes == {}
    assert (pipeline.state.labels.unmatched, pipeline.state.dead_letters) == (MAX_CLASSES + 1, 0)


def test_an_early_label_takes_its_place_among_the_classes_when_its_question_comes() -> None:
    pipeline = new_pipeline(
        settings_for("multiclass", learner={"use": "majority-class"}, labels={"early_seconds": 1e6})
    )
    run(pipeline, *[body(id=i, label=f"early {i}") for i in range(MAX_CLASSES + 1)])
    assert pipeline.state.classes == {}

    outputs = run(
        pipeline, *[body(id=i, features={"a": 1}) for i in range(MAX_CLASSES + 1)], first=MAX_CLASSES + 1
    )

    assert (len(pipeline.state.classes), pipeline.state.learner.learned) == (MAX_CLASSES, MAX_CLASSES)
    assert kinds(outputs) == ["predictions"] * (MAX_CLASSES + 1) + ["dead_letters"]
    assert headers(outputs[-1])["headrace.position"] == f"events[0]@{MAX_CLASSES}".encode()
    assert len(pipeline.state.labels.pending) == 1


def test_a_label_that_is_not_learned_takes_no_class() -> None:
    """One of a duplicate event, of a question that is gone, or of a question that is due."""
    pipeline = new_pipeline(
        settings_for("multiclass", learner={"use": "majority-class"}, event={"time": "at"})
    )

    run(
        pipeline,
        body(id=1, features={"a": 1}, label="first", at=1),
        body(id=1, features={"a": 1}, label="again", at=1),
        body(id=2, features={"a": 1}, at=1),
        body(id=2, label="late", at=100_000),
    )

    assert list(pipeline.state.classes) == ["first"]


def test_a_prediction_that_is_not_finite_is_null_and_counted() -> None:
    class Infinite(base.Regressor):
        def predict_one(self, x: X) -> float:
            return float(x["a"]) * 1e308 * 10

        def learn_one(self, x: X, y: float) -> None:
            pass

    pipeline = new_pipeline(settings_for("regression", **WITH_OUTCOMES), Infinite())

    outputs = run(pipeline, body(features={"a": 1}, label=1), body(features={"a": 0}, label=1))

    assert [item["prediction"] for item in decoded(outputs, "predictions")] == [None, 0.0]
    assert [item["error"] for item in decoded(outputs, "outcomes")] == [None, 1.0]
    assert pipeline.state.non_finite == 1


def test_counters_tell_what_came() -> None:
    pipeline = new_pipeline(settings_for())

    run(
        pipeline,
        body(id=1, features={"a": 1}),
        body(id=1, features={"a": 1}),
        body(id=1, label=1),
        body(id=1, label=1),
        body(features={"a": 1}, label=0),
        b"",
    )

    state = pipeline.state
    assert (state.events, state.predictions, state.dead_letters) == (5, 2, 1)
    assert (state.labels.questions, state.labels.joined) == (1, 1)
    assert (state.labels.duplicate, state.duplicates, state.learner.learned, state.prequential.scored) == (
        1,
        1,
        2,
        2,
    )


def test_a_labelled_event_that_answers_a_question_is_joined_and_is_no_question() -> None:
    pipeline = new_pipeline(settings_for())

    run(
        pipeline,
        body(id=1, features={"a": 1}),
        body(id=1, features={"a": 1}, label=1),
        body(features={"a": 1}),
    )

    assert (
        pipeline.state.labels.questions,
        pipeline.state.labels.joined,
        len(pipeline.state.labels.pending),
    ) == (2, 1, 0)


def test_dead_letters_are_counted_by_how_far_they_came() -> None:
    learner = Recorder(fail_on="learn")
    pipeline = new_pipeline(settings_for(), learner)
    bad = body(features={"a": 1, "bad": 1}, label=1)

    run(pipeline, b"", bad, b"{}", body(features={"a": 1}, label=1))
    learner.fail_on = "predict"
    run(pipeline, bad)

    assert pipeline.state.dead_letters_by_stage == {
        "decode": 2,
        "predict": 1,
        "score": 0,
        "drift": 0,
        "learn": 1,
    }
    assert pipeline.state.dead_letters == 4


def test_the_label_delay_is_that_of_the_last_thousand_answers() -> None:
    pipeline = new_pipeline(settings_for(event={"time": "at"}, labels={"expire_after_seconds": 10_000}))
    assert pipeline.state.labels.delay() is None

    for number in range(1_100):
        run(pipeline, body(id=number, at=0, features={"a": 1}))
    for number in range(1_100):
        run(pipeline, body(id=number, at=number, label=1), body(id=number, at=number, label=1))
        if number == 19:
            assert pipeline.state.labels.delay() == {"p50": 9.0, "p95": 18.0, "count": 20}

    assert pipeline.state.labels.delay() == {"p50": 599.0, "p95": 1_049.0, "count": 1_000}
