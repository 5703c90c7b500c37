"""What is known of labels: which predictions wait for theirs, which had one, and which came before their question.

Pure: no clock but the event time that it is told. The pipeline asks and does; this remembers and counts.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from marshal import dumps, loads
from math import ceil
from typing import Any, Final, Literal, NamedTuple

from stream.keyed import PACKED, KeyedQueue
from stream.records import Features, Label, Scores

#: Of how many of the last answers the label delay is kept.
MOST_LABEL_DELAYS: Final = 1_000

#: What a prediction that waits is made of.
PLAIN: Final = frozenset({bool, int, float, str, type(None)})

#: Blocks of memory that the interpreter counts for an id that is remembered, at least.
BLOCKS_AN_ID: Final = 3
#: What an id costs a snapshot, to write and to read back: 6 ms were measured for 10,000 with predictions of 280 bytes.
SECONDS_AN_ID: Final = 6e-7

#: What became of a question or of a label, as outcomes and counters name it.
LabelState = Literal[
    "joined", "expired", "late", "unmatched", "early", "duplicate", "conflicting", "corrected"
]


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelPolicy:
    """How long to wait, and what to do with what does not fit."""

    #: Seconds of event time that a question waits for its label.
    expire_after_seconds: float
    #: Most questions that wait; beyond, the oldest expires early.
    capacity: int
    #: What silence means: the label of a question that none came for. None: such a question is dropped.
    silence: Label | None = None
    #: Seconds of event time that a label waits for its question.
    early_seconds: float = 600.0
    #: How many questions are remembered after they left, to know their labels as late, duplicate or conflicting.
    remember: int = 100_000
    #: Of two different labels for one question: the first one counts, or a later one is learned as well.
    conflict: Literal["first", "correct"] = "first"


class Question(NamedTuple):
    """A prediction that was made and waits for its label."""

    #: Offset of the question in its partition.
    offset: int
    #: Event time, seconds since the epoch.
    time: float
    #: The features it was predicted on.
    x: Features
    #: The prediction; None if the learner made none.
    y_pred: Label | None
    #: Class → probability, or None.
    y_proba: Scores | None = None
    #: How many labels the learner had learned by then.
    learned: int = 0
    #: Key of its record, which its outcome carries.
    key: bytes | None = None
    #: Its id, if that is a number; None: it is the text that it waits under.
    number: int | None = None


class Closed(NamedTuple):
    """What is known of a question that waits no more, or of a labelled event."""

    #: Offset of the question and its event time; None: not known.
    offset: int | None
    time: float | None
    #: Its label; None: it expired without one.
    y: Label | None
    #: Whether it expired; then `y` is what silence means.
    expired: bool
    #: The prediction.
    y_pred: Label | None
    #: The features; None unless the label may be learned again, or a later one correct it.
    x: Features | None
    #: Whether the label could not be learned: it is when it comes again.
    unlearned: bool = False


class EarlyLabel(NamedTuple):
    """A label that came before its question."""

    #: Offset of the record it came in.
    offset: int
    #: Event time, seconds since the epoch.
    time: float
    y: Label
    #: Key of its record.
    key: bytes | None
    #: The id, if that is a number; None: it is the text that it waits under.
    number: int | None = None


def id_text(event_id: str | int) -> str:
    """An id as it is compared: `7` and `"7"` are one.

    Example:
        >>> id_text(7), id_text("7")
        ('7', '7')
    """
    return event_id if type(event_id) is str else str(event_id)


class LabelBook:
    """Where every question and every label of a partition stands.

    A prediction leaves when its label arrives or after `expire_after_seconds` of *event* time, never wall-clock time,
    so a replay expires exactly what the first run expired.

    Args:
        policy: How long to wait, and what to do with what does not fit.

    Example:
        >>> book = LabelBook(LabelPolicy(expire_after_seconds=60.0, capacity=10))
        >>> book.ask("a", Question(offset=0, time=100.0, x={"f": 1.0}, y_pred=True))
        >>> book.take("a").y_pred, book.take("a")
        (True, None)
    """

    __slots__ = (
        "_closings",
        "closed",
        "conflicting",
        "corrected",
        "delays",
        "duplicate",
        "early",
        "early_labels",
        "expired",
        "expired_early",
        "expired_learned",
        "is_used",
        "joined",
        "late",
        "pending",
        "policy",
        "questions",
        "unmatched",
    )

    def __init__(self, policy: LabelPolicy) -> None:
        self.policy = policy
        #: Whether there was ever a question or an early label: where all events are labelled, nothing is looked up.
        self.is_used = False
        #: Questions that wait for their label, by id. Queues are for looking: what changes them is below.
        self.pending = KeyedQueue()
        #: Questions that have left, in the order in which they did: their time is a running number.
        self.closed = KeyedQueue()
        self._closings = 0
        #: Labels that wait for their question.
        self.early = KeyedQueue()
        #: Events that were predicted on and had no label in them.
        self.questions = 0
        #: Labels that found their question.
        self.joined = 0
        #: Questions that left without a label; of these, those that left early for want of room; those that were
        #: learned as what silence means.
        self.expired = 0
        self.expired_early = 0
        self.expired_learned = 0
        #: Labels that came after their question had expired.
        self.late = 0
        #: Labels that came before their question and were kept for a while.
        self.early_labels = 0
        #: Labels whose question never came, or left so long ago that it is forgotten.
        self.unmatched = 0
        #: Labels that said again what was known, and those that said something else; of these, those learned as well.
        self.duplicate = 0
        self.conflicting = 0
        self.corrected = 0
        #: Seconds of event time that the last labels came after their questions; negative: before.
        self.delays: deque[float] = deque(maxlen=MOST_LABEL_DELAYS)

    def counts(self) -> dict[str, int]:
        """Where questions and labels stand, by the names that a status has for it: see `monitors.LABEL_COUNTS`."""
        return {
            "questions": self.questions,
            "joined": self.joined,
            "pending": len(self.pending),
            "expired": self.expired,
            "expired_early": self.expired_early,
            "expired_learned": self.expired_learned,
            "late": self.late,
            "early": self.early_labels,
            "early_waiting": len(self.early),
            "unmatched": self.unmatched,
            "duplicate_labels": self.duplicate,
            "conflicting_labels": self.conflicting,
            "corrected_labels": self.corrected,
        }

    def delay(self) -> dict[str, float] | None:
        """Median and 95th percentile of the last label delays, seconds, and their count; None without any.

        A percentile is a delay that there was, the smallest one that so many are no longer than, in whole
        microseconds: a difference of epoch seconds has no more.
        """
        delays = sorted(self.delays)
        if not delays:
            return None
        count = len(delays)
        found = {name: delays[ceil(share * count) - 1] for name, share in (("p50", 0.5), ("p95", 0.95))}
        return {name: round(delay, 6) for name, delay in found.items()} | {"count": count}

    # Questions --------------------------------------------------------------------------------------------------

    def ask(self, key: str, question: Question) -> None:
        """Let a question wait; none of this id does, and there is room."""
        self.is_used = True
        self.pending.add(key, question.time, _packed(question))

    def pending_question(self, key: str) -> Question | None:
        """The question of this id that waits, and goes on to."""
        found = self.pending.get(key)
        return None if found is None else _question(found)

    def take(self, key: str) -> Question | None:
        """The question of this id, which waits no more; None if none does."""
        found = self.pending.take(key)
        return None if found is None else _question(found)

    def oldest_question(self) -> tuple[str, Question]:
        """The oldest question, which leaves."""
        key, _, item = self.pending.pop_oldest()
        return key, _question(item)

    # What has left ----------------------------------------------------------------------------------------------

    def close(
        self, key: str, question: Question, y: Label | None, *, expired: bool, unlearned: bool = False
    ) -> None:
        """Remember what became of a question; with its features, if they may be learned once more."""
        policy = self.policy
        if not policy.remember:
            return
        self.is_used = True
        x = question.x if unlearned or policy.conflict == "correct" else None
        self.closed.take(key)
        if len(self.closed) >= policy.remember:
            self.closed.drop_oldest()
        self.closed.add(
            key,
            float(self._closings),
            (question.offset, question.time, y, expired, _plain(question.y_pred), x, unlearned),
        )
        self._closings += 1

    def closed_question(self, key: str) -> Closed | None:
        """What is remembered of a question that has left."""
        found = self.closed.get(key)
        return None if found is None else Closed(*found)

    def correct(self, key: str, y: Label, *, unlearned: bool) -> None:
        """The label of a question that has left is another one."""
        self._close_again(key, self._closed(key)._replace(y=y, unlearned=unlearned))

    def learned(self, key: str) -> None:
        """The label of a question that has left could not be learned, and now was."""
        closed = self._closed(key)
        x = closed.x if self.policy.conflict == "correct" else None
        self._close_again(key, closed._replace(x=x, unlearned=False))

    def _closed(self, key: str) -> Closed:
        found = self.closed_question(key)
        if found is None:
            raise AssertionError("only what is remembered is learned once more")
        return found

    def _close_again(self, key: str, closed: Closed) -> None:
        self.closed.take(key)
        self.closed.add(key, float(self._closings), tuple(closed))
        self._closings += 1

    # Early labels -----------------------------------------------------------------------------------------------

    def keep_early(self, key: str, label: EarlyLabel) -> None:
        """Let a label wait for its question; none of this id does, and there is room."""
        self.is_used = True
        self.early.add(key, label.time, tuple(label))

    def early_label(self, key: str) -> EarlyLabel | None:
        """The label that waits for this question, and goes on to."""
        found = self.early.get(key)
        return None if found is None else EarlyLabel(*found)

    def take_early(self, key: str, now: float) -> EarlyLabel | None:
        """The label that waited for this question, which leaves; None if none did, or its wait is over at `now`."""
        label = self.early_label(key)
        if label is None or label.time < now - self.policy.early_seconds:
            return None
        return self.drop_early(key)

    def drop_early(self, key: str) -> EarlyLabel:
        """The label that waits for this question, which leaves; there is one."""
        found = self.early.take(key)
        if found is None:
            raise AssertionError("only a label that waits leaves")
        return EarlyLabel(*found)

    def oldest_label(self) -> tuple[str, EarlyLabel]:
        """The oldest early label, which leaves."""
        key, _, item = self.early.pop_oldest()
        return key, EarlyLabel(*item)


def _packed(question: Question) -> tuple[object, ...]:
    """The question as plain values: what a learner of the user's own predicts may be something else."""
    y_pred, y_proba = question.y_pred, question.y_proba
    if type(y_pred) not in PLAIN:
        question = question._replace(y_pred=_plain(y_pred))
    if y_proba is not None and (type(y_proba) is not dict or not PLAIN.issuperset(map(type, y_proba))):
        question = question._replace(y_proba={_plain(label): float(p) for label, p in y_proba.items()})
    return tuple(question)


def _plain(label: Any) -> Label:
    """A label as a plain value, such as a NumPy text or boolean as Python's own."""
    if type(label) in PLAIN:
        return label  # type: ignore[no-any-return]  # just looked at
    for kind in (bool, int, float, str):
        if isinstance(label, kind):
            return kind(label)
    found = label.item() if hasattr(label, "item") else label
    return found if type(found) in PLAIN else str(found)


def _question(item: tuple[object, ...]) -> Question:
    return Question._make(item)


class Seen(NamedTuple):
    """An event that was predicted on."""

    #: Its offset.
    offset: int
    #: Its label; None if it had none in it.
    y: Label | None
    #: Its prediction, as written; None unless one is to be written again for a duplicate.
    prediction: bytes | None


class RecentIds:
    """The ids of the last events that were predicted on: an event with one of them is a duplicate.

    Args:
        window: How many ids are remembered; 0: none.

    Example:
        >>> recent = RecentIds(window=2)
        >>> for number, key in enumerate("abc"):
        ...     recent.add(key, number, None, None)
        >>> recent.by_id.get("a"), recent.by_id.get("c")
        (None, (2, None, None))
    """

    __slots__ = ("_order", "by_id", "window")

    def __init__(self, *, window: int) -> None:
        self.window = window
        #: The fields of a `Seen`. For looking, not for changing; it stays the same object while the state is in use.
        self.by_id: dict[str, tuple[int, Label | None, bytes | None]] = {}
        self._order: deque[str] = deque()

    def __len__(self) -> int:
        return len(self.by_id)

    def add(self, key: str, offset: int, y: Label | None, prediction: bytes | None) -> None:
        """Remember an id that is not there; there is a window."""
        order = self._order
        if len(order) >= self.window:
            del self.by_id[order.popleft()]
        order.append(key)
        self.by_id[key] = (offset, y, prediction)

    def forget_last(self) -> None:
        """Forget the id that was added last: its event failed, and may be sent again."""
        del self.by_id[self._order.pop()]

    def blocks(self) -> int:
        """About how many blocks of memory the ids take: what they cost a snapshot is not told by that."""
        return BLOCKS_AN_ID * len(self.by_id)

    def snapshot_seconds(self) -> float:
        """About how long a snapshot of the ids takes."""
        return SECONDS_AN_ID * len(self.by_id)

    # One block of bytes: ten thousand small objects would cost each snapshot several times as long.
    def __getstate__(self) -> tuple[int, bytes]:
        return self.window, dumps((list(self.by_id), list(self.by_id.values())), PACKED)

    def __setstate__(self, state: tuple[int, bytes]) -> None:
        self.window, packed = state
        self.by_id = dict(zip(*loads(packed), strict=True))
        self._order = deque(self.by_id)
