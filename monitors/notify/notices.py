"""The nouns of notifications, and how they are put in words that are safe to send.

Everything here is plain: no I/O, no clock. What comes from events or from other people's records is made harmless
before it becomes part of a message: chat services read more into a text than its author meant.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from monitors.records import Severity

#: From the least to the most severe.
SEVERITIES: Final[tuple[Severity, ...]] = ("info", "warning", "critical")

State = Literal["event", "open", "closed"]
"""An event is over when it is told; what is open stays so until it is closed."""

#: Characters that a title and a text may have; longer ones are cut. Twenty lines of them are at most 10 kB.
TITLE_LENGTH: Final = 150
TEXT_LENGTH: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """Something that people may want to be told."""

    #: Name of the pipeline.
    pipeline: str
    #: How bad it is. A closing should have the severity of its opening: after a restart nothing else tells.
    severity: Severity
    #: Whether it happened, begins or is over.
    state: State
    #: What opens and closes, such as `payments/3/lag`: an opening and its closing have the same key.
    key: str
    #: What it is, in a few words.
    title: str
    #: What happened and what to do, in a sentence or two. May be empty.
    text: str
    #: When, epoch seconds.
    time: float
    #: What it has in common with notices of other parts, such as `lag, payments`, and which part it is of, such as a
    #: partition: in a message those are one line. None: it stands alone.
    subject: str = ""
    part: int | None = None
    #: Where its record lies. None: nowhere; then it can't be told again after a restart.
    topic: str | None = None
    #: Partition of that topic.
    partition: int = 0
    #: Offset of the record.
    offset: int = 0

    @property
    def source(self) -> tuple[str, int] | None:
        """Topic and partition; None: it lies nowhere."""
        return None if self.topic is None else (self.topic, self.partition)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What is sent to a channel: one or many notices in one text."""

    #: A line.
    title: str
    #: Lines, the most severe first and of those the newest.
    body: str
    #: The highest one among its notices.
    severity: Severity
    #: Whether it says that what was open is closed, and nothing else is open: for services that resolve.
    is_over: bool
    #: Notices that it tells, whether in a line of their own or as part of a number.
    notices: int


def at_least(severity: Severity, least: Severity) -> bool:
    """Is it that severe?

    >>> at_least("critical", "warning"), at_least("info", "warning")
    (True, False)
    """
    return SEVERITIES.index(severity) >= SEVERITIES.index(least)


#: Words that call many people at once; like numbers of people, Discord takes them anywhere, others before a word. Not
#: the number behind a bracket: that is a position, `payments[3]@1042`.
_CALLS_MANY: Final = "channel|here|everyone|all|room|group|team|online|subteam"
#: After each of these an invisible character is put, so that no service sees more than text: a mention, a mention or
#: a link of Slack in angle brackets, a link of Markdown behind other words.
_MEANS_MORE: Final = re.compile(
    rf"@(?=(?:{_CALLS_MANY})\b)|(?<!\])@(?=\d)|(?<![\w.])@(?=[^\W\d])|<(?=[!@#&]|https?:|mailto:)|\](?=\()",
    re.IGNORECASE,
)
_ZERO_WIDTH_SPACE: Final = "\u200b"
#: Unicode categories that become a space: control, surrogates, private, unassigned, ends of lines and paragraphs.
_UNPRINTABLE: Final = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
#: The category that goes: invisible and overriding the direction, good for hiding a mention from the pattern above.
_INVISIBLE: Final = "Cf"


def harmless(text: str, most: int = TEXT_LENGTH) -> str:
    r"""Put a text into one line that calls nobody, links nowhere under another name, and is not too long.

    >>> harmless("a\x00b\n c"), harmless("d" * 9, most=5)
    ('a b c', 'dddd…')
    >>> harmless("hey @channel <!here>, ask a@example.org").replace("\u200b", "|")
    'hey @|channel <|!here>, ask a@example.org'
    """
    # Cut first: a text of megabytes costs nothing then. Its end is cut again when it is known what of it is printed.
    cut = text[: 4 * most]
    kinds = ((char, unicodedata.category(char)) for char in cut)
    plain = "".join(" " if kind in _UNPRINTABLE else char for char, kind in kinds if kind != _INVISIBLE)
    plain = " ".join(plain.split())
    if len(plain) > most or len(cut) < len(text):
        plain = f"{plain[: most - 1]}…"
    return _MEANS_MORE.sub(lambda match: match[0] + _ZERO_WIDTH_SPACE, plain)


def when(time: float) -> str:
    """Write a time for people.

    >>> when(0.0), when(float("inf"))
    ('1970-01-01 00:00:00 UTC', 'at an unknown time')
    """
    try:
        return f"{datetime.fromtimestamp(time, UTC):%Y-%m-%d %H:%M:%S} UTC"
    except (ValueError, OverflowError, OSError):
        return "at an unknown time"


def line_of(notice: Notice, mark: str, note: str = "") -> str:
    """Tell a notice in a line: `[critical] open: payments: title: text (time, position)`."""
    title, text = harmless(notice.title, TITLE_LENGTH), harmless(notice.text)
    words = [mark, f"{harmless(notice.pipeline, TITLE_LENGTH)}: {title}{f': {text}' if text else ''}"]
    where = [when(notice.time)]
    if notice.topic is not None:
        where.append(f"{harmless(notice.topic, 249)}[{notice.partition}]@{notice.offset}")
    if note:
        where.append(note)
    return f"{' '.join(words)} ({', '.join(where)})"
