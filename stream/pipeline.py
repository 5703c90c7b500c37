"""What one partition does with one record: records in, outputs out.

Plain Python: no I/O, no clock, no Kafka types. The worker, the backtest and the tests run this same object, so what
holds for one holds for all. Its state is a pure function of the records it was given, in order: see
docs/explanation/determinism.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Final

from learners.learner import Learner
from monitors import Alarm, Alert, DriftMonitor, Prequential
from stream.codec import EventDecoder, dead_letter, encode_json, finite, scores_of
from stream.errors import RecordError
from stream.pending import PendingPredictions, Question
from stream.records import Event, Label, Output, Record, Scores, new_tuple

#: Errors that are no function of the log: they stop the worker instead of making a dead letter.
NOT_THE_RECORDS_FAULT: Final = (MemoryError, OSError, RecursionError)
#: Most classes of one multi-class pipeline; a label that would be one more is a dead letter.
MAX_CLASSES: Final = 1_000
NOTHING: Final[Sequence[Output]] = ()


@dataclass(slots=True)
class State:
    """All that a partition knows: what a snapshot holds."""

    learner: Learner
    prequential: Prequential
    drift: DriftMonitor
    pending: PendingPredictions
    #: Largest event time seen, seconds since the epoch: the clock of label expiry.
    clock: float = float("-inf")
    #: Records that were events, of any of the three kinds.
    events: int = 0
    #: Predictions made.
    predictions: int = 0
    #: Records that went to the dead-letter topic.
    dead_letters: int = 0
    #: Answers whose question is not (or no longer) pending.
    unmatched: int = 0
    #: Questions whose id already waited for its label.
    duplicates: int = 0
    #: Predictions that were NaN or infinite, written as null.
    non_finite: int = 0
    #: Classes seen, in order of first sight; multi-class only.
    classes: dict[Label, None] = field(default_factory=dict)


class Pipeline:
    """The learner of one partition and all that goes with it.

    Args:
        name: The pipeline's name.
        topic: The events topic, for positions in dead letters.
        decoder: Reads events as the settings say.
        state: Where the fold stands; a new one at the origin.
        outcomes: Whether joined pairs of prediction and label are written.

    Use `stream.build.new_pipeline` to make one from settings.
    """

    def __init__(
        self, *, name: str, topic: str, decoder: EventDecoder, state: State, outcomes: bool = False
    ) -> None:
        self.name = name
        self.topic = topic
        self.state = state
        self._outcomes = outcomes
        self._regression = state.learner.task == "regression"
        self._multiclass = state.learner.task == "multiclass"
        self._learner_name = state.learner.name
        # Looked up once: the event path calls each of them for every event.
        self._decode = decoder.decode
        self._predict = state.learner.predict
        self._learn = state.learner.learn
        self._score = state.prequential.update
        self._watch_label = state.drift.labelled
        self._watch_prediction = state.drift.predicted if state.drift.watches_predictions else None

    def process(self, record: Record) -> Sequence[Output]:
        """Do all that one record asks for: predict, score, watch, learn. Returns what is to be written, in order.

        An error of the record or of the learner becomes a dead letter among the outputs.

        Raises:
            MemoryError, OSError, RecursionError: From the learner; they say nothing about the record.
        """
        state = self.state
        partition, offset, _, key, _, _ = record
        try:
            event_id, time, x, y = event = self._decode(record)
        except RecordError as error:
            return (self._dead_letter(record, "decode", error),)
        if self._multiclass and y is not None and y not in state.classes:
            if len(state.classes) >= MAX_CLASSES:
                refusal = RecordError(
                    f"the label {y!r} is one class too many; expected at most {MAX_CLASSES:,} classes"
                )
                return (self._dead_letter(record, "decode", refusal),)
            if x is not None or (event_id is not None and event_id in state.pending):
                state.classes[y] = None  # it will be learned; an answer to nothing takes no place
        state.events += 1
        if time > state.clock:
            state.clock = time
        pending = state.pending
        if pending.by_id:
            pending.expire(state.clock)
            if y is not None and event_id is not None and event_id in pending:
                return self._answer(record, event)
        if x is None:
            return self._answer(record, event)

        y_proba: Scores | None
        try:
            y_pred, y_proba = self._predict(x)
            body = {
                "id": event_id,
                "partition": partition,
                "offset": offset,
                "time": time,
                "prediction": self._finite(y_pred) if self._regression else y_pred,
                "learner": self._learner_name,
                "learned": state.learner.learned,
            }
            if y_proba:
                body["scores"] = scores_of(y_proba)
            prediction = encode_json(body)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            return (self._dead_letter(record, "predict", error),)
        state.predictions += 1
        outputs = [new_tuple(Output, ("predictions", key, prediction, None))]
        stage = "drift"
        try:
            if y is None:
                if self._watch_prediction is not None:
                    outputs += self._alerts(record, time, self._watch_prediction(x, y_pred, offset))
                if event_id is not None and not pending.add(
                    event_id, Question(offset, time, x, y_pred, y_proba)
                ):
                    state.duplicates += 1
                return outputs
            stage = "score"
            self._score(y, y_pred, y_proba)
            stage = "drift"
            if self._watch_prediction is not None:
                outputs += self._alerts(record, time, self._watch_prediction(x, y_pred, offset))
            alarms = self._watch_label(y, y_pred, offset)
            if alarms:
                outputs += self._alerts(record, time, alarms)
            stage = "learn"
            self._learn(x, y)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            outputs.append(self._dead_letter(record, stage, error))
            if y is None:
                return outputs
        if self._outcomes:
            outputs.append(self._outcome(record, event, offset, time, y_pred))
        return outputs

    def _answer(self, record: Record, event: Event) -> Sequence[Output]:
        """Score the prediction that was made, then learn with the features it was made on."""
        event_id, time, _, y = event
        if event_id is None or y is None:
            raise AssertionError("the decoder lets no answer through without id and label")
        state = self.state
        question = state.pending.take(event_id)
        if question is None:
            state.unmatched += 1
            return NOTHING
        outputs: list[Output] = []
        stage = "score"
        try:
            state.prequential.update(y, question.y_pred, question.y_proba)
            stage = "drift"
            outputs += self._alerts(record, time, state.drift.labelled(y, question.y_pred, record.offset))
            stage = "learn"
            state.learner.learn(question.x, y)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            outputs.append(self._dead_letter(record, stage, error))
        if self._outcomes:
            outputs.append(self._outcome(record, event, question.offset, question.time, question.y_pred))
        return outputs

    def _finite(self, y_pred: Label | None) -> Label | None:
        """A predicted number, or None for one that JSON has no name for, which is counted."""
        if y_pred is None or isfinite(y_pred):  # type: ignore[arg-type]  # a number
            return y_pred
        self.state.non_finite += 1
        return None

    def _outcome(
        self, record: Record, event: Event, question_offset: int, question_time: float, y_pred: Label | None
    ) -> Output:
        y = event.y
        error = None
        if y_pred is not None:
            error = finite(abs(y - y_pred)) if self._regression else int(y != y_pred)  # type: ignore[operator]  # numbers
        body = {
            "id": event.id,
            "partition": record.partition,
            "offset": question_offset,
            "label_offset": record.offset,
            "time": question_time,
            "prediction": y_pred,
            "label": y,
            "error": error,
            "label_delay_seconds": event.time - question_time,
        }
        return Output("outcomes", record.key, encode_json(body))

    def _alerts(self, record: Record, time: float, alarms: Sequence[Alarm]) -> list[Output]:
        return [
            Output("alerts", record.key, encode_json(self._alert(record, time, alarm).to_dict()))
            for alarm in alarms
        ]

    def _alert(self, record: Record, time: float, alarm: Alarm) -> Alert:
        return Alert(
            kind=alarm.level,
            pipeline=self.name,
            watch=alarm.watch,
            detector=alarm.detector,
            partition=record.partition,
            offset=record.offset,
            time=time,
            mean_before=alarm.mean_before,
            mean_after=alarm.mean_after,
            observed=alarm.observed,
        )

    def _dead_letter(self, record: Record, stage: str, error: BaseException) -> Output:
        self.state.dead_letters += 1
        return dead_letter(record, pipeline=self.name, topic=self.topic, stage=stage, error=error)
