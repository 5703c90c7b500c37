"""What one partition does with one record: records in, outputs out.

Plain Python: no I/O, no clock, no Kafka types. The worker, the backtest and the tests run this same object, so what
holds for one holds for all. Its state is a pure function of the records it was given, in order: see
docs/explanation/determinism.md.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import isfinite
from typing import Final, Literal, Protocol, TypeVar

import orjson

from learners.learner import Learner
from monitors import Alarm, Alert, DriftMonitor, Prequential
from stream.codec import EventDecoder, RelayedForAnother, dead_letter, encode_json, finite, scores_of
from stream.errors import RecordError
from stream.labels import Closed, EarlyLabel, LabelBook, LabelState, Question, RecentIds, Seen, id_text
from stream.records import STAGES, Event, Features, Label, Output, Record, Scores, Stage, new_tuple

T = TypeVar("T")

#: Errors that are no function of the log: they stop the worker instead of making a dead letter.
NOT_THE_RECORDS_FAULT: Final = (MemoryError, OSError, RecursionError)
#: Most classes of one multi-class pipeline; a label that would be one more is a dead letter.
MAX_CLASSES: Final = 1_000
#: Outcomes whose label was learned: they say how far off the prediction was.
SCORED: Final[frozenset[LabelState]] = frozenset({"joined", "expired", "corrected"})
#: How many of the last rows a state remembers, for a snapshot to try itself on.
REMEMBERED: Final = 4
#: Most questions, and most early labels, that one record lets expire: after a jump of event time a million may be due,
#: and a transaction must not stay open for all of them. The next record goes on; what is due counts as expired.
MOST_EXPIRED_A_RECORD: Final = 1_000

#: What becomes of an event whose id was seen before: its prediction is written again, with the offset of the first in
#: it or without, or it is not.
DuplicatePolicy = Literal["mark", "repeat", "drop"]


class Observe(Protocol):
    """Makes of one of the learner's methods one that does the same and is observed."""

    def __call__(self, call: Literal["predict", "learn"], method: Callable[..., T], /) -> Callable[..., T]:
        """The method to call instead."""


@dataclass(slots=True)
class State:
    """All that a partition knows: what a snapshot holds."""

    learner: Learner
    prequential: Prequential
    drift: DriftMonitor
    labels: LabelBook
    recent: RecentIds
    #: Largest event time seen, seconds since the epoch: the clock of label expiry.
    clock: float = float("-inf")
    #: Records that were events, of any of the three kinds.
    events: int = 0
    #: Predictions made.
    predictions: int = 0
    #: Records that went to the dead-letter topic, by how far they came.
    dead_letters_by_stage: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STAGES, 0))
    #: Events whose id was seen before: questions and labelled events.
    duplicates: int = 0
    #: Records that were relayed for another pipeline.
    ignored: int = 0
    #: Predictions that were NaN or infinite, written as null.
    non_finite: int = 0
    #: Classes of the labels that were to be learned, in order; multi-class only. No other label takes a place.
    classes: dict[Label, None] = field(default_factory=dict)
    #: Features of the last predictions: a snapshot is tried on them.
    recent_features: deque[Features] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    @property
    def dead_letters(self) -> int:
        """Records that went to the dead-letter topic."""
        return sum(self.dead_letters_by_stage.values())


class Pipeline:
    """The learner of one partition and all that goes with it.

    Args:
        name: The pipeline's name.
        topic: The events topic, for positions in dead letters.
        decoder: Reads events as the settings say.
        state: Where the fold stands; a new one at the origin.
        duplicates: What becomes of an event whose id was seen before.
        outcomes: Whether it is written what became of each question and each label.

    Use `stream.build.new_pipeline` to make one from settings.
    """

    def __init__(
        self,
        *,
        name: str,
        topic: str,
        decoder: EventDecoder,
        state: State,
        duplicates: DuplicatePolicy = "mark",
        outcomes: bool = False,
    ) -> None:
        self.name = name
        self.topic = topic
        self._duplicates = duplicates
        self._outcomes = outcomes
        self._decode = decoder.decode
        self.resume(state)

    def resume(self, state: State) -> None:
        """Go on from a state: that of a snapshot, in place of the one there is."""
        self.state = state
        self._regression = state.learner.task == "regression"
        self._multiclass = state.learner.task == "multiclass"
        self._learner_name = state.learner.name
        # Looked up once: the event path calls each of them for every event.
        self._remember = state.recent_features.append
        self.observe_learner(None)
        self._score = state.prequential.update
        self._watch_label = state.drift.labelled
        self._watch_prediction = state.drift.predicted if state.drift.watches_predictions else None
        self._seen = state.recent.by_id.get
        self._window = state.recent.window
        self._repeats = self._duplicates != "drop"
        self._watch_delay = state.drift.delayed if state.drift.watches_delays else None
        policy = state.labels.policy
        self._wait = policy.expire_after_seconds
        self._early_wait = policy.early_seconds
        self._corrects = policy.conflict == "correct"

    def observe_learner(self, observed: Observe | None) -> None:
        """Call the learner through what `observed` makes of its methods, until told None: to time it, say.

        A side channel: what is called must do and return what the method itself does.
        """
        learner = self.state.learner
        self._predict, self._learn = learner.predict, learner.learn
        if observed is not None:
            self._predict, self._learn = observed("predict", self._predict), observed("learn", self._learn)

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
        except RelayedForAnother:
            state.ignored += 1
            return ()
        labels = state.labels
        if time > state.clock:
            state.clock = time
        outputs: list[Output] = []
        if (
            labels.pending.oldest < state.clock - self._wait
            or labels.early.oldest < state.clock - self._early_wait
        ):
            outputs += self._expire(record)
        id_key: str | None = None
        seen: Seen | None = None
        if event_id is not None:
            id_key = event_id if type(event_id) is str else str(event_id)
            found = self._seen(id_key)
            seen = None if found is None else Seen._make(found)
        if self._multiclass and y is not None and self._is_too_many(y):
            return [*outputs, self._dead_letter(record, "decode", _one_too_many(y))]
        state.events += 1
        if x is None:
            return outputs + self._answer(record, event, seen)
        if id_key is not None and (seen is not None or labels.is_used):
            if y is not None and self._is_answer(id_key, seen):
                return outputs + self._answer(record, event, seen)
            if seen is not None or id_key in labels.pending:
                return outputs + self._duplicate(record, event, seen)

        self._remember(x)
        learned = state.learner.learned
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
                "learned": learned,
            }
            if y_proba:
                body["scores"] = scores_of(y_proba)
            prediction = encode_json(body)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            return [*outputs, self._dead_letter(record, "predict", error)]
        state.predictions += 1
        outputs.append(new_tuple(Output, ("predictions", key, prediction, None)))
        early: EarlyLabel | None = None
        second: EarlyLabel | None = None
        delay: float | None = None
        if id_key is not None:
            if self._window:
                state.recent.add(id_key, offset, y, prediction if self._repeats else None)
            early = labels.take_early(id_key, state.clock) if labels.is_used else None
            if early is not None and self._multiclass and self._is_too_many(early.y):
                # Others took the last places while it waited; its bytes are not at hand any more.
                came = record._replace(offset=early.offset, key=early.key, value=None, headers=None)
                outputs.append(self._dead_letter(came, "decode", _one_too_many(early.y)))
                early = None
        stage: Stage = "drift"
        try:
            if y is None:
                labels.questions += 1
                if early is None:
                    if self._watch_prediction is not None:
                        outputs += self._alerts(record, time, self._watch_prediction(x, y_pred, offset))
                    if id_key is not None:
                        question = Question(offset, time, x, y_pred, y_proba, learned, key, _number(event_id))
                        outputs += self._ask(record, id_key, question)
                    return outputs
                labels.joined += 1
                delay = early.time - time
                labels.delays.append(delay)
                y = early.y
            elif early is not None:
                early, second = self._two_labels(EarlyLabel(offset, time, y, key), early)
                y = early.y
            if self._multiclass:
                state.classes[y] = None
            stage = "score"
            self._score(y, y_pred, y_proba)
            stage = "drift"
            if self._watch_prediction is not None:
                outputs += self._alerts(record, time, self._watch_prediction(x, y_pred, offset))
            if delay is not None and self._watch_delay is not None:
                outputs += self._alerts(record, time, self._watch_delay(delay, offset))
            alarms = self._watch_label(y, y_pred, offset)
            if alarms:
                outputs += self._alerts(record, time, alarms)
            stage = "learn"
            self._learn(x, y)
            if id_key is not None and (early is not None or self._corrects):
                labels.close(id_key, Question(offset, time, x, y_pred), y, expired=False)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            outputs.append(self._dead_letter(record, stage, error))
            if y is not None and event.y is None and id_key is not None:
                # A question whose label came early; replayed from the dead letters it has none in it.
                labels.close(id_key, Question(offset, time, x, y_pred), y, expired=False, unlearned=True)
            elif id_key is not None and self._window:
                state.recent.forget_last()  # replayed from the dead letters it is no duplicate
            if y is None:
                return outputs
        if self._outcomes:
            asked = offset, time, y_pred
            label = (offset, time, y) if early is None else (early.offset, early.time, y)
            outputs.append(self._outcome("joined", key, event_id, partition, question=asked, label=label))
            if second is not None:
                became: LabelState = "duplicate" if second.y == y else "conflicting"
                label = second.offset, second.time, second.y
                outputs.append(
                    self._outcome(became, second.key, event_id, partition, question=asked, label=label)
                )
        return outputs

    def _is_too_many(self, y: Label) -> bool:
        """Whether a label is a class for which there is no place."""
        classes = self.state.classes
        return y not in classes and len(classes) >= MAX_CLASSES

    # Questions and their labels -----------------------------------------------------------------------------------

    def _is_answer(self, id_key: str, seen: Seen | None) -> bool:
        """Whether a labelled event of this id answers a question that was asked before."""
        labels = self.state.labels
        if seen is not None:
            return seen.y is None
        # Without a window ids are not one event's: one that has its label or has expired says nothing of the next.
        return id_key in labels.pending or (self._window > 0 and id_key in labels.closed)

    def _ask(self, record: Record, id_key: str, question: Question) -> list[Output]:
        """Let a question wait for its label; where there is no room the oldest expires early."""
        labels = self.state.labels
        outputs: list[Output] = []
        if len(labels.pending) >= labels.policy.capacity:
            labels.expired_early += 1
            outputs = self._expired(record, *labels.oldest_question())
        labels.ask(id_key, question)
        return outputs

    def _answer(self, record: Record, event: Event, seen: Seen | None) -> list[Output]:
        """Score the prediction that was made, then learn with the features it was made on."""
        event_id, time, _, y = event
        if event_id is None or y is None:
            raise AssertionError("the decoder lets no answer through without id and label")
        state = self.state
        labels = state.labels
        id_key = id_text(event_id)
        outputs: list[Output] = []
        question = labels.take(id_key)
        if question is not None and question.time < state.clock - self._wait:  # due, and not yet its turn
            outputs += self._expired(record, id_key, question)
            question = None
        if question is not None:
            labels.joined += 1
            delay = time - question.time
            labels.delays.append(delay)
            learned = state.learner.learned
            outputs += self._learn_answer(record, time, question, y, delay=delay)
            labels.close(id_key, question, y, expired=False, unlearned=state.learner.learned == learned)
            return outputs + self._told("joined", record, event, question)
        closed = labels.closed_question(id_key)
        if closed is not None:
            return outputs + self._said_again(record, event, closed)
        if seen is not None and seen.y is not None:
            known = Closed(seen.offset, None, seen.y, expired=False, y_pred=None, x=None)
            return outputs + self._said_again(record, event, known)
        return outputs + self._early(record, event, may_come=seen is None)

    def _learn_answer(
        self,
        record: Record,
        time: float,
        question: Question,
        y: Label,
        *,
        delay: float | None = None,
        blamed: Record | None = None,
    ) -> list[Output]:
        """Score a prediction that waited, watch, and learn; an error makes a dead letter of it or the blamed."""
        state = self.state
        outputs: list[Output] = []
        if self._multiclass:
            state.classes[y] = None
        stage: Stage = "score"
        try:
            state.prequential.update(y, question.y_pred, question.y_proba)
            stage = "drift"
            if delay is not None and self._watch_delay is not None:
                outputs += self._alerts(record, time, self._watch_delay(delay, record.offset))
            outputs += self._alerts(record, time, state.drift.labelled(y, question.y_pred, record.offset))
            stage = "learn"
            self._learn(question.x, y)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            outputs.append(self._dead_letter(blamed or record, stage, error))
        return outputs

    def _said_again(self, record: Record, event: Event, closed: Closed) -> list[Output]:
        """A label of a question that waits no more: late, a duplicate, or one that says something else."""
        state = self.state
        labels = state.labels
        y = event.y
        if event.id is None or y is None:
            raise AssertionError("only a label with an id is said again")
        if closed.expired:
            labels.late += 1
            return self._told("late", record, event, closed)
        if y == closed.y:
            labels.duplicate += 1
            return self._learn_again(record, id_text(event.id), closed) + self._told(
                "duplicate", record, event, closed
            )
        labels.conflicting += 1
        if closed.x is None or not self._corrects:
            return self._told("conflicting", record, event, closed)
        labels.corrected += 1
        learned = state.learner.learned
        outputs: list[Output] = []
        try:
            if self._multiclass:
                state.classes[y] = None
            self._learn(closed.x, y)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            outputs.append(self._dead_letter(record, "learn", error))
        labels.correct(id_text(event.id), y, unlearned=state.learner.learned == learned)
        return outputs + self._told("corrected", record, event, closed)

    def _learn_again(self, record: Record, id_key: str, closed: Closed | None) -> list[Output]:
        """Learn a label that could not be learned when it came: its question or it has come again."""
        if closed is None or not closed.unlearned or closed.x is None or closed.y is None:
            return []
        try:
            self._learn(closed.x, closed.y)
        except NOT_THE_RECORDS_FAULT:
            raise
        except Exception as error:
            return [self._dead_letter(record, "learn", error)]
        self.state.labels.learned(id_key)
        return []

    def _early(self, record: Record, event: Event, *, may_come: bool) -> list[Output]:
        """A label whose question has not come: keep it for a while."""
        labels = self.state.labels
        event_id, time, _, y = event
        if event_id is None or y is None:
            raise AssertionError("the decoder lets no answer through without id and label")
        id_key = id_text(event_id)
        label = EarlyLabel(record.offset, time, y, record.key, _number(event_id))
        if not may_come or not self._early_wait:
            return self._unmatched(record, id_key, label)
        outputs: list[Output] = []
        waiting = labels.early_label(id_key)
        if waiting is not None and waiting.time < self.state.clock - self._early_wait:
            outputs += self._unmatched(record, id_key, labels.drop_early(id_key))
        elif waiting is not None:
            known = Closed(None, None, waiting.y, expired=False, y_pred=None, x=None)
            if y != waiting.y and self._corrects:
                labels.drop_early(id_key)
                labels.keep_early(id_key, label)
            return self._said_again(record, event, known)
        if len(labels.early) >= labels.policy.capacity:
            outputs += self._unmatched(record, *labels.oldest_label())
        labels.early_labels += 1
        labels.keep_early(id_key, label)
        return outputs + self._told("early", record, event, None)

    def _two_labels(self, own: EarlyLabel, early: EarlyLabel) -> tuple[EarlyLabel, EarlyLabel]:
        """Of a labelled event whose label had come before it as well: the label that counts, and the other."""
        labels = self.state.labels
        if own.y == early.y:
            labels.duplicate += 1
            return early, own
        labels.conflicting += 1
        return (own, early) if self._corrects else (early, own)

    def _expire(self, record: Record) -> list[Output]:
        """Let go of what has waited too long by the clock of event times."""
        labels = self.state.labels
        clock = self.state.clock
        outputs: list[Output] = []
        for _ in range(MOST_EXPIRED_A_RECORD):
            if not labels.pending.oldest < clock - self._wait:
                break
            outputs += self._expired(record, *labels.oldest_question())
        for _ in range(MOST_EXPIRED_A_RECORD):
            if not labels.early.oldest < clock - self._early_wait:
                break
            outputs += self._unmatched(record, *labels.oldest_label())
        return outputs

    def _expired(self, record: Record, id_key: str, question: Question) -> list[Output]:
        """A question gets no label: it is dropped, or learned as what silence means."""
        labels = self.state.labels
        y = labels.policy.silence
        labels.expired += 1
        labels.close(id_key, question, y, expired=True)
        outputs: list[Output] = []
        if y is not None:
            labels.expired_learned += 1
            # Not this record is to blame for an error, but the question's, whose bytes are not at hand any more.
            asked = record._replace(offset=question.offset, key=question.key, value=None, headers=None)
            outputs += self._learn_answer(record, self.state.clock, question, y, blamed=asked)
        if self._outcomes:
            asked_at = question.offset, question.time, question.y_pred
            label = None if y is None else (None, None, y)
            event_id = id_key if question.number is None else question.number
            outputs.append(
                self._outcome(
                    "expired", question.key, event_id, record.partition, question=asked_at, label=label
                )
            )
        return outputs

    def _unmatched(self, record: Record, id_key: str, label: EarlyLabel) -> list[Output]:
        """A label whose question never came."""
        self.state.labels.unmatched += 1
        if not self._outcomes:
            return []
        told = label.offset, label.time, label.y
        event_id = id_key if label.number is None else label.number
        return [self._outcome("unmatched", label.key, event_id, record.partition, question=None, label=told)]

    def _duplicate(self, record: Record, event: Event, seen: Seen | None) -> list[Output]:
        """An event whose id was seen before: it is not learned, and its prediction is the first one's."""
        state = self.state
        event_id, time, _, y = event
        if event_id is None:
            raise AssertionError("only an event with an id is a duplicate")
        state.duplicates += 1
        outputs: list[Output] = []
        body = self._first_prediction(id_text(event_id), seen)
        if body is not None:
            body |= {"id": event_id, "partition": record.partition, "offset": record.offset, "time": time}
            if self._duplicates == "mark":
                body["duplicate_of"] = body.pop("first")
            else:
                del body["first"]
            outputs.append(Output("predictions", record.key, encode_json(body)))
        closed = state.labels.closed_question(id_text(event_id))
        if y is None or seen is None:
            return outputs + self._learn_again(record, id_text(event_id), closed)
        if closed is None:
            closed = Closed(seen.offset, None, seen.y, expired=False, y_pred=None, x=None)
        if y != closed.y:  # which may have been corrected since
            outputs += self._said_again(record, event, closed)
        return outputs

    def _first_prediction(self, id_key: str, seen: Seen | None) -> dict[str, object] | None:
        """What was predicted for an id, with `first`, the offset at which; None if it is not to be said again."""
        if self._duplicates == "drop":
            return None
        if seen is not None:
            if seen.prediction is None:
                return None
            body: dict[str, object] = orjson.loads(seen.prediction)
            return body | {"first": seen.offset}
        question = self.state.labels.pending_question(id_key)
        if question is None:
            raise AssertionError("a duplicate was seen, or its first waits")
        y_pred = question.y_pred
        body = {
            "id": None,
            "partition": 0,
            "offset": 0,
            "time": 0.0,
            "prediction": y_pred if y_pred is None or not self._regression else finite(float(y_pred)),
            "learner": self._learner_name,
            "learned": question.learned,
        }
        if question.y_proba:
            body["scores"] = scores_of(question.y_proba)
        return body | {"first": question.offset}

    # Outputs ------------------------------------------------------------------------------------------------------

    def _finite(self, y_pred: Label | None) -> Label | None:
        """A predicted number, or None for one that JSON has no name for, which is counted."""
        if y_pred is None or isfinite(y_pred):  # type: ignore[arg-type]  # a number
            return y_pred
        self.state.non_finite += 1
        return None

    def _told(
        self, state: LabelState, record: Record, event: Event, question: Question | Closed | None
    ) -> list[Output]:
        """The outcome of a label that came in a record, if outcomes are written."""
        if not self._outcomes:
            return []
        asked = None if question is None else (question.offset, question.time, question.y_pred)
        label = record.offset, event.time, event.y
        return [self._outcome(state, record.key, event.id, record.partition, question=asked, label=label)]

    def _outcome(
        self,
        state: LabelState,
        key: bytes | None,
        event_id: str | int | None,
        partition: int,
        *,
        question: tuple[int | None, float | None, Label | None] | None,
        label: tuple[int | None, float | None, Label | None] | None,
    ) -> Output:
        """What became of a question, or of a label; each by offset, event time, and prediction or label."""
        offset, time, y_pred = question or (None, None, None)
        label_offset, label_time, y = label or (None, None, None)
        error = None
        if state in SCORED and y is not None and y_pred is not None:
            error = finite(abs(y - y_pred)) if self._regression else int(y != y_pred)  # type: ignore[operator]  # numbers
        body = {
            "id": event_id,
            "state": state,
            "partition": partition,
            "offset": offset,
            "label_offset": label_offset,
            "time": time,
            "label_time": label_time,
            "prediction": y_pred,
            "label": y,
            "error": error,
            "label_delay_seconds": None if time is None or label_time is None else label_time - time,
        }
        return Output("outcomes", key, encode_json(body))

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

    def _dead_letter(self, record: Record, stage: Stage, error: BaseException) -> Output:
        self.state.dead_letters_by_stage[stage] += 1
        return dead_letter(record, pipeline=self.name, topic=self.topic, stage=stage, error=error)


def _one_too_many(y: Label) -> RecordError:
    return RecordError(f"the label {y!r} is one class too many; expected at most {MAX_CLASSES:,} classes")


def _number(event_id: str | int | None) -> int | None:
    return event_id if type(event_id) is int else None
