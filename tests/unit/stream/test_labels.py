"""What the pipeline writes and learns of labels that are late, early, doubled, conflicting or missing."""

from __future__ import annotations

import pickle
import tomllib
from collections import Counter
from typing import Any

import numpy as np
import pytest

from stream.build import new_pipeline
from stream.errors import ConfigError
from stream.pipeline import Pipeline
from stream.records import Record
from stream.settings import load_settings
from stream.settings.words import shown
from tests.helpers import body, decoded, record, settings_for
from tests.unit.stream.test_pipeline import WITH_OUTCOMES, Recorder, headers, kinds, run

X1, X2 = {"a": 1}, {"a": 2}


def pipeline_for(learner: Recorder | None = None, **labels: Any) -> tuple[Pipeline, Recorder]:
    learner = learner or Recorder()
    event = {key: labels.pop(key) for key in ("duplicates", "id_window") if key in labels}
    settings = settings_for(event={"time": "at", **event}, labels=labels, **WITH_OUTCOMES)
    return new_pipeline(settings, learner), learner


def learned(learner: Recorder) -> list[tuple[Any, Any]]:
    return [call[1:] for call in learner.calls if call[0] == "learn"]


def keyed(value: bytes, offset: int, key: bytes) -> Record:
    return record(value, offset, key=key)


# Expiry and silence ---------------------------------------------------------------------------------------------


def test_an_expired_question_is_told_under_its_own_key_and_not_learned() -> None:
    pipeline, learner = pipeline_for(expire_after_seconds=60)
    pipeline.process(keyed(body(id="q", features=X1, at=100), 3, b"asked"))

    outputs = pipeline.process(keyed(body(id="later", features=X2, at=161), 9, b"later"))

    assert kinds(outputs) == ["outcomes", "predictions"]
    assert outputs[0].key == b"asked"
    assert decoded(outputs, "outcomes") == [
        {
            "id": "q",
            "state": "expired",
            "partition": 0,
            "offset": 3,
            "label_offset": None,
            "time": 100.0,
            "label_time": None,
            "prediction": True,
            "label": None,
            "error": None,
            "label_delay_seconds": None,
        }
    ]
    assert learned(learner) == []


def test_a_question_expires_after_its_wait_and_not_at_its_end() -> None:
    pipeline, learner = pipeline_for(expire_after_seconds=60)

    run(pipeline, body(id=1, features=X1, at=100), body(id=1, label=True, at=160))

    assert learned(learner) == [(X1, True)]
    assert pipeline.state.labels.expired == 0


def test_silence_is_scored_and_learned_with_the_features_as_they_were() -> None:
    pipeline, learner = pipeline_for(expire_after_seconds=60, silence=False)

    outputs = run(pipeline, body(id=1, features=X1, at=100), body(id=2, features=X2, at=161))

    assert learner.calls == [("predict", X1), ("learn", X1, False), ("predict", X2)]
    (outcome,) = decoded(outputs, "outcomes")
    assert (outcome["state"], outcome["label"], outcome["error"]) == ("expired", False, 1)
    assert (outcome["label_offset"], outcome["label_delay_seconds"]) == (None, None)
    assert pipeline.state.prequential.scored == 1
    assert pipeline.state.labels.expired_learned == 1


def test_a_label_after_silence_was_learned_is_late_and_changes_nothing() -> None:
    pipeline, learner = pipeline_for(expire_after_seconds=60, silence=False, conflict="correct")

    outputs = run(pipeline, body(id=1, features=X1, at=100), body(id=1, label=True, at=200))

    assert learned(learner) == [(X1, False)]
    assert [item["state"] for item in decoded(outputs, "outcomes")] == ["expired", "late"]
    assert pipeline.state.labels.late == 1


def test_an_error_on_silence_blames_the_question_and_not_the_record_that_let_it_expire() -> None:
    pipeline, _ = pipeline_for(Recorder(fail_on="learn"), expire_after_seconds=60, silence=False)
    pipeline.process(keyed(body(id=1, features={"bad": 1}, at=100), 3, b"asked"))

    outputs = pipeline.process(keyed(body(id=2, features=X2, at=161), 9, b"later"))

    assert kinds(outputs) == ["dead_letters", "outcomes", "predictions"]
    assert (outputs[0].key, outputs[0].value) == (b"asked", None)
    assert headers(outputs[0])["headrace.position"] == b"events[0]@3"
    assert headers(outputs[0])["headrace.stage"] == b"learn"


@pytest.mark.parametrize(
    ("task", "event", "silence", "words"),
    [
        ("binary", "", '"no"', "expected true or false"),
        ("binary", "", "2", "expected true or false"),
        ("binary", 'positive = "yes"', "false", "expected a label of the kind of [event] positive"),
        ("regression", "", '"none"', "expected a number between -1e100 and 1e100 (regression)"),
        ("regression", "", "true", "expected a number between -1e100 and 1e100 (regression)"),
        ("regression", "", "nan", "expected a number between -1e100 and 1e100 (regression)"),
        ("regression", "", "1e+101", "expected a number between -1e100 and 1e100 (regression)"),
        ("multiclass", "", f'"{"x" * 129}"', "expected at most 128 characters"),
    ],
)
def test_a_silence_that_is_no_label_of_the_task_is_refused(
    tmp_path: Any, task: str, event: str, silence: str, words: str
) -> None:
    file = tmp_path / "p.toml"
    file.write_text(
        f'name = "p"\ntask = "{task}"\n[topics]\nevents = "e"\n[event]\n{event}\n[learner]\nuse = "no-change"\n'
        f"[labels]\nsilence = {silence}\n"
    )

    with pytest.raises(ConfigError) as refused:
        load_settings(file)

    assert f"[labels] silence is {shown(tomllib.loads(f'x = {silence}')['x'])}; {words}" in str(refused.value)


@pytest.mark.parametrize(
    ("task", "event", "silence", "label"),
    [
        ("binary", {}, False, False),
        ("binary", {}, 1, True),
        ("binary", {"positive": "yes"}, "no", False),
        ("multiclass", {}, 3, "3"),
        ("regression", {}, 0, 0.0),
    ],
)
def test_silence_is_a_label_as_in_an_event(task: str, event: Any, silence: Any, label: Any) -> None:
    settings = settings_for(task, event=event, labels={"silence": silence})

    found = new_pipeline(settings).state.labels.policy.silence

    assert (found, type(found)) == (label, type(label))


# Early ----------------------------------------------------------------------------------------------------------


def test_an_early_label_waits_for_its_question_and_is_learned_with_it() -> None:
    pipeline, learner = pipeline_for()

    outputs = run(pipeline, body(id=1, label=True, at=100), body(id=1, features=X1, at=130))

    assert learner.calls == [("predict", X1), ("learn", X1, True)]
    assert kinds(outputs) == ["outcomes", "predictions", "outcomes"]
    early, joined = decoded(outputs, "outcomes")
    assert (early["state"], early["offset"], early["label_offset"], early["label"]) == (
        "early",
        None,
        0,
        True,
    )
    assert (joined["state"], joined["offset"], joined["label_offset"]) == ("joined", 1, 0)
    assert (joined["label_delay_seconds"], joined["error"]) == (-30.0, 0)
    assert list(pipeline.state.labels.delays) == [-30.0]


@pytest.mark.parametrize(
    ("conflict", "own", "told"),
    [
        ("first", True, [("joined", 0, True, 0), ("duplicate", 1, True, None)]),
        ("first", False, [("joined", 0, True, 0), ("conflicting", 1, False, None)]),
        ("correct", False, [("joined", 1, False, 1), ("conflicting", 0, True, None)]),
    ],
)
def test_of_an_early_label_and_that_in_the_event_each_is_told_with_where_it_came(
    conflict: str, own: bool, told: list[Any]
) -> None:
    pipeline, learner = pipeline_for(conflict=conflict)
    pipeline.process(keyed(body(id="q", label=True, at=100), 0, b"early"))

    outputs = pipeline.process(keyed(body(id="q", features=X1, label=own, at=110), 1, b"event"))

    found = decoded(outputs, "outcomes")
    assert [(item["state"], item["label_offset"], item["label"], item["error"]) for item in found] == told
    assert [output.key for output in outputs[2:]] == [b"early" if told[1][1] == 0 else b"event"]
    assert learned(learner) == [(X1, told[0][2])]
    labels = pipeline.state.labels
    assert (labels.duplicate, labels.conflicting, labels.corrected) == (int(own), int(not own), 0)


def test_an_early_label_whose_question_does_not_come_is_unmatched_after_its_wait() -> None:
    pipeline, learner = pipeline_for(early_seconds=30)
    pipeline.process(keyed(body(id=1, label=True, at=100), 0, b"said"))

    outputs = pipeline.process(keyed(body(id=1, features=X1, at=131), 1, b"asked"))

    assert kinds(outputs) == ["outcomes", "predictions"]
    (unmatched,) = decoded(outputs, "outcomes")
    assert (unmatched["state"], unmatched["label_offset"], unmatched["label_time"]) == ("unmatched", 0, 100.0)
    assert outputs[0].key == b"said"
    assert learned(learner) == []
    assert len(pipeline.state.labels.pending) == 1


@pytest.mark.parametrize("event_id", [7, "7", 2**63, "", "ä" * 9])
def test_an_id_is_told_as_it_was_sent_however_long_it_waited(event_id: object) -> None:
    pipeline, _ = pipeline_for(expire_after_seconds=60, early_seconds=60)

    outputs = run(
        pipeline,
        body(id=event_id, label=True, at=0),
        body(id="x", features=X1, at=100),
        body(id=event_id, features=X1, at=100),
        body(id="y", features=X1, at=200),
    )

    told = [(item["state"], item["id"]) for item in decoded(outputs, "outcomes")]
    assert told == [("early", event_id), ("unmatched", event_id), ("expired", "x"), ("expired", event_id)]


# Said again -----------------------------------------------------------------------------------------------------


def test_a_second_label_is_a_duplicate_or_conflicting_and_changes_nothing() -> None:
    pipeline, learner = pipeline_for()

    outputs = run(
        pipeline,
        body(id=1, features=X1, at=0),
        body(id=1, label=True, at=5),
        body(id=1, label=True, at=6),
        body(id=1, label=False, at=7),
    )

    assert learned(learner) == [(X1, True)]
    told = [(item["state"], item["label"], item["error"]) for item in decoded(outputs, "outcomes")]
    assert told == [("joined", True, 0), ("duplicate", True, None), ("conflicting", False, None)]
    assert [item["offset"] for item in decoded(outputs, "outcomes")] == [0, 0, 0]


def test_a_correction_is_learned_on_the_questions_features_and_not_scored_again() -> None:
    pipeline, learner = pipeline_for(conflict="correct")

    outputs = run(
        pipeline,
        body(id=1, features=X1),
        body(id=1, label=True),
        body(id=1, label=False),
        body(id=1, label=False),
    )

    assert learned(learner) == [(X1, True), (X1, False)]
    assert pipeline.state.prequential.scored == 1
    told = [(item["state"], item["error"]) for item in decoded(outputs, "outcomes")]
    assert told == [("joined", 0), ("corrected", 1), ("duplicate", None)]
    labels = pipeline.state.labels
    assert (labels.conflicting, labels.corrected, labels.duplicate) == (1, 1, 1)


def test_the_label_of_a_labelled_event_can_be_corrected() -> None:
    pipeline, learner = pipeline_for(conflict="correct")

    run(pipeline, body(id=1, features=X1, label=False), body(id=1, label=True))

    assert learned(learner) == [(X1, False), (X1, True)]


def test_a_labelled_event_that_comes_again_is_compared_with_the_label_as_it_was_corrected() -> None:
    pipeline, learner = pipeline_for(conflict="correct")

    outputs = run(pipeline, *(body(id=1, features=X1, label=label) for label in (True, False, False, True)))

    assert [item["state"] for item in decoded(outputs, "outcomes")] == ["joined", "corrected", "corrected"]
    assert learned(learner) == [(X1, True), (X1, False), (X1, True)]
    assert pipeline.state.duplicates == 3


# Ids ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("duplicates", "extra"), [("mark", [{"duplicate_of": 0}]), ("repeat", [{}]), ("drop", [])]
)
@pytest.mark.parametrize("label", [{}, {"label": True}])
def test_an_event_seen_before_is_learned_once_and_its_prediction_is_the_first_ones(
    duplicates: str, extra: list[dict[str, int]], label: dict[str, bool]
) -> None:
    pipeline, learner = pipeline_for(duplicates=duplicates)
    run(pipeline, body(id="other", features=X2, label=True, at=1))

    first = run(pipeline, body(id="e", features=X1, **label, at=2))
    run(pipeline, body(id="more", features=X2, label=True, at=3))
    again = pipeline.process(keyed(body(id="e", features=X1, **label, at=4), 7, b"again"))

    (prediction,) = decoded(first, "predictions")
    assert prediction["learned"] == 1
    assert decoded(again, "predictions") == [
        {**prediction, "offset": 7, "time": 4.0, **item} for item in extra
    ]
    assert all(output.key == b"again" for output in again)
    assert [call for call in learner.calls if call[1] == X1] == [
        ("predict", X1),
        *([("learn", X1, True)] if label else []),
    ]
    assert pipeline.state.duplicates == 1
    assert pipeline.state.predictions == 3


def test_a_waiting_question_is_known_as_a_duplicate_beyond_the_window() -> None:
    pipeline, learner = pipeline_for(id_window=1)

    first = run(pipeline, body(id="q", features=X1, at=1), body(id="other", features=X2, at=2))
    again = pipeline.process(record(body(id="q", features=X1, at=3), 5))

    assert decoded(again, "predictions") == [
        {**decoded(first, "predictions")[0], "offset": 5, "time": 3.0, "duplicate_of": 0}
    ]
    assert len(learner.calls) == 2


def test_beyond_the_window_a_labelled_event_is_a_new_one() -> None:
    pipeline, learner = pipeline_for(id_window=2)

    run(pipeline, *[body(id=number % 3, features=X1, label=True) for number in range(6)])

    assert len(learned(learner)) == 6
    assert pipeline.state.duplicates == 0


@pytest.mark.parametrize("conflict", ["first", "correct"])
def test_without_a_window_ids_may_repeat(conflict: str) -> None:
    pipeline, learner = pipeline_for(id_window=0, conflict=conflict)
    run(pipeline, body(id="customer", features=X1), body(id="customer", label=False))

    outputs = run(pipeline, *[body(id="customer", features=X2, label=True) for _ in range(5)], first=2)

    assert len(decoded(outputs, "predictions")) == 5
    assert learned(learner) == [(X1, False), *[(X2, True)] * 5]


def test_an_event_that_could_not_be_learned_is_no_duplicate_when_it_is_sent_again() -> None:
    learner = Recorder(fail_on="learn")
    pipeline, _ = pipeline_for(learner)
    failed = run(pipeline, body(id=1, features={"bad": 1}, label=True))
    assert kinds(failed) == ["predictions", "dead_letters", "outcomes"]
    learner.fail_on = ""

    again = run(pipeline, body(id=1, features={"bad": 1}, label=True), first=1)

    assert kinds(again) == ["predictions", "outcomes"]
    assert learned(learner) == [({"bad": 1}, True)]


@pytest.mark.parametrize("conflict", ["first", "correct"])
def test_an_answer_that_could_not_be_learned_is_learned_when_it_is_sent_again(conflict: str) -> None:
    """On the features of its question, and once; the prediction was scored when the label came."""
    learner = Recorder(fail_on="learn")
    pipeline, _ = pipeline_for(learner, conflict=conflict)
    failed = run(pipeline, body(id=1, features={"bad": 1}), body(id=1, label=True))
    assert kinds(failed) == ["predictions", "dead_letters", "outcomes"]
    assert kinds(run(pipeline, body(id=1, label=True), first=2)) == ["dead_letters", "outcomes"]
    learner.fail_on = ""
    state = pickle.loads(pickle.dumps(pipeline.state))
    pipeline.resume(state)  # it is remembered by a snapshot, too
    learner = state.learner.estimator

    again = run(
        pipeline,
        body(id=1, label=True),
        body(id=1, label=True),
        body(id=1, features={"bad": 1}, label=True),
        first=3,
    )

    assert [item["state"] for item in decoded(again, "outcomes")] == ["duplicate"] * 3
    assert learned(learner) == [({"bad": 1}, True)]
    assert (state.learner.learned, state.prequential.scored, state.labels.joined) == (1, 1, 1)
    assert state.dead_letters_by_stage["learn"] == 2


def test_another_label_for_an_answer_that_could_not_be_learned_is_conflicting() -> None:
    learner = Recorder(fail_on="learn")
    pipeline, _ = pipeline_for(learner)
    run(pipeline, body(id=1, features={"bad": 1}), body(id=1, label=True))
    learner.fail_on = ""

    outputs = run(pipeline, body(id=1, label=False), body(id=1, label=True), first=2)

    assert [item["state"] for item in decoded(outputs, "outcomes")] == ["conflicting", "duplicate"]
    assert learned(learner) == [({"bad": 1}, True)]


def test_a_correction_that_could_not_be_learned_is_learned_when_it_is_sent_again() -> None:
    learner = Recorder()
    pipeline, _ = pipeline_for(learner, conflict="correct")
    run(pipeline, body(id=1, features={"bad": 1}), body(id=1, label=True))
    learner.fail_on = "learn"
    assert kinds(run(pipeline, body(id=1, label=False), first=2)) == ["dead_letters", "outcomes"]
    learner.fail_on = ""

    outputs = run(pipeline, body(id=1, label=False), body(id=1, label=False), first=3)

    assert [item["state"] for item in decoded(outputs, "outcomes")] == ["duplicate"] * 2
    assert learned(learner) == [({"bad": 1}, True), ({"bad": 1}, False)]


def test_a_question_whose_early_label_could_not_be_learned_is_learned_when_it_is_sent_again() -> None:
    """The dead letter is the question, which has no label in it."""
    learner = Recorder(fail_on="learn")
    pipeline, _ = pipeline_for(learner, silence=False, expire_after_seconds=60)
    question = body(id=1, features={"bad": 1}, at=100)
    failed = run(pipeline, body(id=1, label=True, at=100), question)
    assert kinds(failed) == ["outcomes", "predictions", "dead_letters", "outcomes"]
    learner.fail_on = ""

    again = run(pipeline, question, question, body(id=2, label=True, at=1_000), first=2)

    assert [item["duplicate_of"] for item in decoded(again, "predictions")] == [1, 1]
    assert [item["state"] for item in decoded(again, "outcomes")] == ["early"]
    assert learned(learner) == [({"bad": 1}, True)]
    assert pipeline.state.labels.counts()["pending"] == 0


class Numbers(Recorder):
    """Predicts NumPy's kinds of values, as wrappers of other libraries do."""

    def predict_one(self, x: Any, **kwargs: Any) -> Any:
        return np.str_("yes")

    def predict_proba_one(self, x: Any, **kwargs: Any) -> Any:
        return Counter({np.str_("yes"): np.float64(0.75), np.str_("no"): np.float32(0.25)})

    @property
    def _multiclass(self) -> bool:
        return True


def test_a_prediction_of_other_kinds_of_values_is_the_same_one_however_long_it_waits() -> None:
    pipeline = new_pipeline(settings_for("multiclass", **WITH_OUTCOMES), Numbers())
    run(pipeline, body(id="q", features=X1))
    run(pipeline, *[body(id=number, features=X2) for number in range(600)], first=1)

    outputs = run(pipeline, body(id="q", label="no"), first=1_000)

    (outcome,) = decoded(outputs, "outcomes")
    assert (outcome["prediction"], outcome["label"], outcome["error"]) == ("yes", "no", 1)
    assert pipeline.state.dead_letters == 0
    assert pipeline.state.prequential.scored == 1


def test_a_correction_of_a_prediction_of_other_kinds_of_values_is_told_by_another_process() -> None:
    settings = settings_for("multiclass", labels={"conflict": "correct"}, **WITH_OUTCOMES)
    pipeline, restarted = new_pipeline(settings, Numbers()), new_pipeline(settings, Numbers())
    run(pipeline, body(id="e", features=X1, label="yes"))
    restarted.resume(pickle.loads(pickle.dumps(pipeline.state)))

    outputs = run(restarted, body(id="e", label="no"), first=1)

    (outcome,) = decoded(outputs, "outcomes")
    assert (outcome["state"], outcome["prediction"], outcome["error"]) == ("corrected", "yes", 1)


def test_a_number_and_its_text_are_one_id() -> None:
    pipeline, learner = pipeline_for()

    run(pipeline, body(id=7, features=X1), body(id="7", label=True))

    assert learned(learner) == [(X1, True)]
