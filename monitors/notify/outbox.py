"""What a channel has still to tell, and when: policy and state, without I/O and without a clock.

An `Outbox` collects notices into groups, limits how many messages an hour leave it, tries again after failures with
growing pauses, and reminds of what stays open. Time is an argument, in seconds of any clock that only grows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple

from monitors.notify.notices import SEVERITIES, TITLE_LENGTH, Message, Notice, at_least, harmless, line_of
from monitors.records import Severity, ranges

HOUR: Final = 3600.0
#: One in so many of the messages that an hour may have is for what is critical: many drifts must not keep it waiting.
RESERVED: Final = 4
#: Lines of a message; what is beyond is a number in its last one. A chat shows about so many at once.
LINES: Final = 20
#: Open states that are remembered, for reminders and closings; of more than that the oldest are forgotten.
MOST_OPEN: Final = 1_000
#: Pipelines whose surplus is counted by name; those of any further ones are counted together.
MOST_FOLDED: Final = 20

#: Topic and partition.
Source = tuple[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelPolicy:
    """What a channel tells and how often."""

    #: The least severity that is told; the closing of what was told is told whatever its severity.
    severity: Severity = "warning"
    #: Seconds for which notices are collected into one message. 0: each at once.
    group_seconds: float = 30.0
    #: Messages within any 3,600 seconds; beyond, notices wait and go together with the next one. One in `RESERVED` of
    #: them is kept for what is critical.
    at_most_per_hour: int = 20
    #: Seconds after which what is still open is told again. 0: never.
    reminder_seconds: float = 14_400.0
    #: Pause after a failure, seconds; it doubles with each further one.
    retry_seconds: float = 5.0
    #: The longest pause, seconds.
    retry_most_seconds: float = 600.0
    #: Notices kept one by one; beyond, the oldest become a number.
    capacity: int = 1_000


@dataclass(slots=True)
class _Surplus:
    """Notices of a pipeline of which only the number is kept."""

    count: int = 0
    severity: Severity = "info"
    #: Of each topic and partition the least offset.
    least: dict[Source, int] = field(default_factory=dict)

    def add(self, count: int, severity: Severity, least: dict[Source, int]) -> None:
        self.count += count
        self.severity = _worse(self.severity, severity)
        _lower(self.least, least)


@dataclass(slots=True)
class _Entry:
    """An event, or all that one key did since it was last told."""

    latest: Notice
    #: The highest of its notices, and of the opening where it tells of a closing.
    severity: Severity
    #: Whether its opening was told in an earlier message.
    was_told: bool
    #: Whether there is an opening in it.
    opened: bool
    count: int
    least: dict[Source, int]

    def add(self, newer: _Entry) -> None:
        """Take in what the same key did later."""
        self.latest = newer.latest
        self.severity = _worse(self.severity, newer.severity)
        self.opened = self.opened or newer.opened
        self.count += newer.count
        _lower(self.least, newer.least)

    def line(self) -> _Line:
        mark = f"[{self.severity}]"
        if self.latest.state == "open":
            mark += " open:"
        elif self.latest.state == "closed":
            mark += " open and closed again:" if self.opened and not self.was_told else " closed:"
        return _Line(self.latest, mark, self.count)


class _Line(NamedTuple):
    """What a message tells in a line, before it is put in words."""

    notice: Notice
    mark: str
    #: Notices that it stands for.
    notices: int
    #: The parts that have it in common, if it is of several.
    parts: tuple[int, ...] = ()

    def __str__(self) -> str:
        if not self.parts:
            return line_of(self.notice, self.mark, f"{self.notices} notices" if self.notices > 1 else "")
        note = f"{len(self.parts)} partitions"
        return line_of(
            self.common,
            self.mark,
            f"{note}, {self.notices} notices" if self.notices > len(self.parts) else note,
        )

    @property
    def common(self) -> Notice:
        """The notice, as one of all its parts."""
        if not self.parts:
            return self.notice
        return replace(self.notice, title=f"{self.notice.subject}[{ranges(self.parts)}]")


def _together(lines: Iterable[_Line]) -> list[_Line]:
    """One line for what differs only in the part that it is of, where the first of them stands."""
    groups: dict[tuple[object, ...], list[_Line]] = {}
    for line in lines:
        notice = line.notice
        if notice.part is None or not notice.subject:
            groups[len(groups),] = [line]
        else:
            groups.setdefault((notice.pipeline, notice.subject, line.mark), []).append(line)
    found = []
    for group in groups.values():
        parts = sorted({line.notice.part for line in group if line.notice.part is not None})
        if len(parts) > 1:
            found.append(group[0]._replace(notices=sum(line.notices for line in group), parts=tuple(parts)))
        else:
            found += group
    return found


@dataclass(slots=True)
class _Open:
    notice: Notice
    #: When it was told last; None: not yet.
    told: float | None


@dataclass(slots=True)
class _Flight:
    """What was handed out and is neither delivered nor failed."""

    entries: dict[str, _Entry]
    surplus: dict[str, _Surplus]
    reminders: list[Notice]
    begun: float | None


class Outbox:
    """Notices on their way to one channel.

    Each notice that the channel tells is part of at least one delivered message. What happens to it on the way: it
    waits for its group, for the limit of messages an hour and for the pause after a failure; what one key does before
    it is told becomes one line; what is too much to be kept one by one becomes a number.

    Example:
        >>> outbox = Outbox(ChannelPolicy(group_seconds=30.0))
        >>> notice = Notice(pipeline="payments", severity="critical", state="open", key="payments/3/lag",
        ...                 title="Lag grows", text="5,000 records behind.", time=0.0)
        >>> outbox.offer(notice, now=100.0)
        True
        >>> outbox.due(now=110.0) is None, outbox.wait(now=110.0)
        (True, 20.0)
        >>> message = outbox.due(now=130.0)
        >>> print(message.title, message.body, sep="\\n")
        [critical] payments: Lag grows
        [critical] open: payments: Lag grows: 5,000 records behind. (1970-01-01 00:00:00 UTC)
        >>> outbox.delivered(now=131.0)
    """

    def __init__(self, policy: ChannelPolicy) -> None:
        self.policy = policy
        # In the order in which they came; an event under a key of its own, anything else under the key of its state.
        self._waiting: dict[str, _Entry] = {}
        self._surplus: dict[str, _Surplus] = {}
        self._begun: float | None = None
        self._open: dict[str, _Open] = {}
        self._flight: _Flight | None = None
        self._sent: deque[float] = deque(maxlen=policy.at_most_per_hour)
        self._failures = 0
        self._not_before = float("-inf")

    # --- What comes in -----------------------------------------------------------------------------------

    def offer(self, notice: Notice, now: float) -> bool:
        """Take a notice in, and say whether this channel will tell it."""
        severity, was_told = notice.severity, False
        match notice.state:
            case "event":
                if not at_least(severity, self.policy.severity):
                    return False
                key = f"event {notice.topic} {notice.partition} {notice.offset} {notice.key}"
            case "open":
                if not at_least(severity, self.policy.severity):
                    return False
                key = f"state {notice.key}"
                known = self._open.get(notice.key)
                told = None if known is None else known.told
                was_told = told is not None
                self._is_open(notice, told)
            case "closed":
                key = f"state {notice.key}"
                known = self._open.pop(notice.key, None)
                if known is not None:
                    severity, was_told = _worse(severity, known.notice.severity), known.told is not None
                elif not at_least(severity, self.policy.severity):
                    return False
        entry = _Entry(
            latest=notice,
            severity=severity,
            was_told=was_told,
            opened=notice.state == "open",
            count=1,
            least={} if notice.source is None else {notice.source: notice.offset},
        )
        if key in self._waiting:
            self._waiting[key].add(entry)
        else:
            self._waiting[key] = entry
        if self._begun is None:
            self._begun = now
        self._shrink()
        return True

    def remember(self, notice: Notice, now: float) -> None:
        """Learn what an earlier process told, without telling it: what is still open, for reminders and closings."""
        if notice.state == "closed":
            self._open.pop(notice.key, None)
        elif notice.state == "open" and at_least(notice.severity, self.policy.severity):
            self._is_open(notice, now)

    def _is_open(self, notice: Notice, told: float | None) -> None:
        self._open.pop(notice.key, None)  # to the end: the newest is forgotten last
        self._open[notice.key] = _Open(notice, told)
        if len(self._open) > MOST_OPEN:
            del self._open[next(iter(self._open))]

    def _shrink(self) -> None:
        """Make numbers of the oldest entries beyond the capacity; of what is open last."""
        while len(self._waiting) > self.policy.capacity:
            over = (key for key, entry in self._waiting.items() if entry.latest.state != "open")
            entry = self._waiting.pop(next(over, next(iter(self._waiting))))
            _fold(self._surplus, entry.latest.pipeline, entry.count, entry.severity, entry.least)

    # --- What goes out -----------------------------------------------------------------------------------

    def wait(self, now: float) -> float | None:
        """Seconds until there is something to send. None: not before something else happens."""
        due = self._due()
        return None if due is None else max(0.0, due - now)

    def _due(self) -> float | None:
        if self._flight is not None:
            return None
        times = [told + self.policy.reminder_seconds for told, _ in self._told()]
        if self._begun is not None:
            times.append(self._begun + self.policy.group_seconds)
        if not times:
            return None
        due = max(min(times), self._not_before)
        most = self.policy.at_most_per_hour
        if not self._has_critical():
            most -= most // RESERVED
        if len(self._sent) >= most:
            due = max(due, self._sent[-most] + HOUR)
        return due

    def _has_critical(self) -> bool:
        """Whether something critical waits to be told, or to be told as over."""
        return any(
            item.severity == "critical" for held in (self._waiting, self._surplus) for item in held.values()
        )

    def _told(self) -> list[tuple[float, Notice]]:
        """What is open and may be reminded of, with the time at which it was told last."""
        if not self.policy.reminder_seconds:
            return []
        # What waits to be told again needs no reminder.
        return [
            (item.told, item.notice)
            for key, item in self._open.items()
            if item.told is not None and f"state {key}" not in self._waiting
        ]

    def due(self, now: float) -> Message | None:
        """Hand out the message to send now, if there is one; `delivered` or `failed` must follow."""
        due = self._due()
        if due is None or due > now:
            return None
        told, interval = self._told(), self.policy.reminder_seconds
        reminders = []
        if any(time + interval <= now for time, _ in told):
            # Those that would be due soon go along, so that reminders are few and tell of all.
            reminders = [notice for time, notice in told if time + interval / 2 <= now]
        self._flight = _Flight(self._waiting, self._surplus, reminders, self._begun)
        self._waiting, self._surplus, self._begun = {}, {}, None
        return _message(self._flight, is_over=not self._open)

    def delivered(self, now: float) -> None:
        """The message that was handed out has arrived."""
        flight = self._taken()
        self._sent.append(now)
        self._failures, self._not_before = 0, float("-inf")
        for key in flight.entries:
            if key in self._waiting:  # closed or told again meanwhile
                self._waiting[key].was_told = True
        reminded = {notice.key for notice in flight.reminders}
        for key, item in self._open.items():
            in_flight = f"state {key}" in flight.entries or key in reminded
            # What is open and neither waits nor was told before was in the message, be it in a number.
            if in_flight or (item.told is None and f"state {key}" not in self._waiting):
                item.told = now

    def failed(self, now: float) -> None:
        """The message that was handed out did not arrive, as far as is known: it will be made and sent again."""
        flight = self._taken()
        self._failures += 1
        pause = self.policy.retry_seconds * 2 ** min(self._failures - 1, 30)
        self._not_before = now + min(pause, self.policy.retry_most_seconds)
        newer, self._waiting = self._waiting, flight.entries
        for key, entry in newer.items():
            if key in self._waiting:
                self._waiting[key].add(entry)
            else:
                self._waiting[key] = entry
        more, self._surplus = self._surplus, flight.surplus
        for pipeline, item in more.items():
            _fold(self._surplus, pipeline, item.count, item.severity, item.least)
        if flight.begun is not None:
            self._begun = flight.begun
        self._shrink()

    def _taken(self) -> _Flight:
        assert self._flight is not None, "nothing was handed out"
        flight, self._flight = self._flight, None
        return flight

    # --- What is where -----------------------------------------------------------------------------------

    def undelivered(self) -> dict[Source, int]:
        """Of each topic and partition the least offset that is not delivered; absent: all is."""
        least: dict[Source, int] = {}
        for item in self._held():
            _lower(least, item.least)
        return least

    def uproot(self, source: Source) -> None:
        """A topic's partition was made anew: where notices lay in the old one says nothing any more."""
        for item in self._held():
            item.least.pop(source, None)

    @property
    def waiting(self) -> int:
        """Notices that are not delivered."""
        return sum(item.count for item in self._held())

    @property
    def open(self) -> int:
        """What is known to be open, as far as this channel tells it."""
        return len(self._open)

    def _held(self) -> Iterator[_Entry | _Surplus]:
        yield from self._waiting.values()
        yield from self._surplus.values()
        if self._flight is not None:
            yield from self._flight.entries.values()
            yield from self._flight.surplus.values()


def _message(flight: _Flight, is_over: bool) -> Message:
    """Put in words what goes out together; `is_over`: nothing is open any more."""
    entries = sorted(flight.entries.values(), key=lambda entry: _rank(entry.severity, entry.latest.time))
    reminders = sorted(flight.reminders, key=lambda notice: _rank(notice.severity, notice.time))
    surplus = flight.surplus
    count = sum(entry.count for entry in entries) + sum(item.count for item in surplus.values())
    severities = [item.severity for held in (entries, reminders, surplus.values()) for item in held]
    worst = max(severities, key=SEVERITIES.index)

    lines = _together(entry.line() for entry in entries)
    lines += _together(_Line(notice, f"[{notice.severity}] still open:", 1) for notice in reminders)
    body = [str(line) for line in lines[:LINES]]
    if len(lines) > LINES:
        body.append(f"and {sum(line.notices for line in lines[LINES:]):,} more")
    for pipeline, item in surplus.items():
        body.append(
            f"{item.count:,} more of {harmless(pipeline, TITLE_LENGTH)}, the worst of them {item.severity}"
        )

    told = [entry.latest for entry in entries] + reminders
    if len(lines) == 1 and not surplus:
        word = "still open" if reminders else "closed" if told[0].state == "closed" else worst
        title = f"[{word}] {harmless(told[0].pipeline, 100)}: {harmless(lines[0].common.title, TITLE_LENGTH)}"
    else:
        parts = [f"{count:,} notice{'s' * (count != 1)}"] if count else []
        parts += [f"{len(reminders):,} still open"] if reminders else []
        pipelines = list(dict.fromkeys([*(notice.pipeline for notice in told), *surplus]))
        names = [harmless(name, 50) for name in pipelines[:3]]
        if len(pipelines) > 3:
            names.append(f"{len(pipelines) - 3} more")
        title = f"[{worst}] {', '.join(names)}: {', '.join(parts)}"
    return Message(
        title=title,
        body="\n".join(body),
        severity=worst,
        is_over=is_over and not surplus and all(entry.latest.state == "closed" for entry in entries),
        notices=count + len(reminders),
    )


def _rank(severity: Severity, time: float) -> tuple[int, float]:
    """The most severe first, of those the newest; a time that is none comes last."""
    return -SEVERITIES.index(severity), -time if time == time else float("inf")  # noqa: PLR0124  # NaN


def _worse(one: Severity, other: Severity) -> Severity:
    return max(one, other, key=SEVERITIES.index)


def _lower(least: dict[Source, int], other: dict[Source, int]) -> None:
    for source, offset in other.items():
        least[source] = min(offset, least.get(source, offset))


def _fold(
    surplus: dict[str, _Surplus], pipeline: str, count: int, severity: Severity, least: dict[Source, int]
) -> None:
    if pipeline not in surplus and len(surplus) >= MOST_FOLDED:
        pipeline = "other pipelines"
    surplus.setdefault(pipeline, _Surplus()).add(count, severity, least)
