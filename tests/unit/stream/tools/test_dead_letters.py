from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson
import pytest

from stream.codec import dead_letter
from stream.errors import RecordError
from stream.records import Headers, Record
from stream.tools.cluster import Found
from stream.tools.dead_letters import (
    MOST_GROUPS,
    OTHERS,
    Filters,
    Letter,
    Listing,
    Shown,
    WrongPosition,
    body_of,
    indented,
    letter_of,
    line_of,
    lines_of,
    listing_of,
    parse_position,
    summary_of,
)

HOSTILE = "\x1b]0;owned\x07\x9b2J\u202e\nDEAD"


def found(
    value: bytes | None = b"garbage",
    headers: Headers = (),
    *,
    offset: int = 7,
    at: int = 0,
    timestamp: int = 1_000,
    stage: str = "decode",
    error: BaseException | None = None,
    key: bytes | None = None,
) -> Found:
    """A dead letter as the worker writes it, at an offset `at` of its topic."""
    record = Record(3, offset, timestamp, key, value, headers)
    letter = dead_letter(
        record, pipeline="p", topic="clicks", stage=stage, error=error or RecordError("no JSON")
    )
    return Found("p.dead-letters", 3, at, timestamp, letter.key, letter.value, letter.headers or ())


def letter(*arguments: Any, **more: Any) -> Letter:
    read = letter_of(found(*arguments, **more))
    assert read is not None
    return read


def test_a_dead_letter_is_read_as_the_worker_wrote_it() -> None:
    read = letter(
        b"\xff", (("mine", b"1"), ("mine", None)), stage="learn", error=KeyError("x"), at=12, key=b"k"
    )

    assert (read.position, read.place) == ("clicks[3]@7", "p.dead-letters[3]@12")
    assert (read.stage, read.error, read.message) == ("learn", "KeyError", "'x'")
    assert (read.key, read.value, read.headers) == (b"k", b"\xff", (("mine", b"1"), ("mine", None)))
    assert (read.attempt, read.replayed_from, read.origin) == (0, None, "clicks[3]@7")


def test_what_an_event_brings_along_is_not_taken_for_our_reason() -> None:
    forged = tuple(found(stage="learn", offset=99).headers)

    read = letter(headers=forged)

    assert (read.position, read.stage, read.headers) == ("clicks[3]@7", "decode", forged)


@pytest.mark.parametrize("attempt", [b"", b"x", b"-1", b"1" * 4_000, "\uff12".encode(), None])
def test_an_attempt_that_is_no_number_counts_as_none(attempt: bytes | None) -> None:
    assert letter(headers=(("headrace.attempt", attempt),)).attempt == 0


@pytest.mark.parametrize(
    "change",
    [
        {"headrace.partition": b"2"},
        {"headrace.offset": b"x"},
        {"headrace.position": b"clicks[3]@8"},
        {"headrace.position": None},
        {"headrace.pipeline": ...},
        {"headrace.stage": b"odd"},
    ],
)
def test_a_record_that_no_worker_wrote_is_no_dead_letter(change: dict[str, Any]) -> None:
    record = found()
    headers = [(n, change.get(n, v)) for n, v in record.headers if change.get(n) is not ...]

    assert letter_of(record._replace(headers=headers)) is None


def test_a_line_says_where_how_far_why_how_often_and_what() -> None:
    read = letter(b'{"a": [1]}', (("headrace.attempt", b"2"), ("headrace.replayed-from", b"clicks[3]@1")))

    assert line_of(body_of(read)) == 'clicks[3]@7  decode  RecordError: no JSON  attempt 2  {"a": [1]}'
    assert body_of(read)["replayed_from"] == "clicks[3]@1"


def test_a_line_of_a_large_value_is_short_and_its_size_is_told() -> None:
    body = body_of(letter("é".encode() * 100_000))

    assert body["value"] == "é" * 200 + "…"
    assert body["value_bytes"] == 200_000


@pytest.mark.parametrize("value", [HOSTILE.encode(), b"\x1b[2J\xff", orjson.dumps({HOSTILE: HOSTILE})])
def test_nothing_of_a_record_reaches_the_terminal_as_a_command(value: bytes) -> None:
    bad = letter(
        value,
        ((HOSTILE, HOSTILE.encode()), ("headrace.replayed-from", HOSTILE.encode())),
        error=type(HOSTILE, (Exception,), {})(HOSTILE),
        key=HOSTILE.encode(),
    )
    listing = Listing(topic="t", letters=[], groups={(HOSTILE, HOSTILE): 1}, foreign=0)

    lines = [
        line_of(body_of(bad)),
        *lines_of(Shown(bad, [body_of(bad), body_of(bad)])),
        *summary_of(listing, oldest_first=False, filtered=False),
    ]

    assert all(line.isprintable() for line in lines)


def listed(records: Iterable[Found], **arguments: Any) -> Listing:
    given: dict[str, Any] = {"filters": Filters(), "limit": 2, "oldest_first": False} | arguments
    return listing_of("t", iter(records), **given)


def offsets(listing: Listing) -> list[int]:
    return [int(body["position"].partition("@")[2]) for body in listing.letters]


def test_the_newest_or_the_oldest_are_kept_by_their_time_and_all_are_counted() -> None:
    records = [found(offset=n, at=n, timestamp=t) for n, t in enumerate((5, 9, 1, 9, 3))]

    assert offsets(listed(records)) == [3, 1]
    assert offsets(listed(records, oldest_first=True)) == [2, 4]
    assert listed(records).total == 5


def test_filters_leave_out_other_stages_and_older_ones() -> None:
    records = [found(offset=n, at=n, timestamp=n, stage=("decode", "learn")[n % 2]) for n in range(6)]

    listing = listed(records, filters=Filters(stages=["learn"], since=3), limit=9)

    assert offsets(listing) == [5, 3]
    assert listing.groups == {("learn", "RecordError"): 2}


def test_the_summary_counts_by_stage_and_error_the_most_first() -> None:
    records = [found(), found(stage="learn", error=KeyError("a")), found(stage="learn", error=KeyError("b"))]
    foreign = Found("t", 0, 0, 0, None, b"x", ())

    listing = listed([*(record._replace(offset=n) for n, record in enumerate(records)), foreign])

    assert summary_of(listing, oldest_first=False, filtered=False) == [
        "3 dead letters on t; shown: the newest 2.",
        "  2  learn    KeyError",
        "  1  decode   RecordError",
        "Records that no worker wrote: 1.",
    ]
    assert listing.to_dict()["groups"] == [
        {"stage": "learn", "error": "KeyError", "dead_letters": 2},
        {"stage": "decode", "error": "RecordError", "dead_letters": 1},
    ]


def test_an_empty_topic_and_filters_without_a_match_are_said_in_a_sentence() -> None:
    assert summary_of(listed([]), oldest_first=False, filtered=False) == ["No dead letter is there on t."]
    assert summary_of(listed([]), oldest_first=False, filtered=True) == ["No dead letter matches on t."]


def test_a_topic_full_of_different_errors_takes_no_more_memory() -> None:
    kinds = [type(f"E{n}", (Exception,), {})() for n in range(MOST_GROUPS + 5)]

    listing = listed(found(error=error, at=at) for at, error in enumerate(kinds))

    assert len(listing.groups) == MOST_GROUPS + 1
    assert listing.groups[OTHERS] == 5


@pytest.mark.parametrize(
    "text", ["", "7", "clicks@7", "orders[3]@7", "clicks[3]@-7", "3@٣", "3@" + "9" * 30, "clicks[3]@7\x1b[2J"]
)
def test_what_is_no_position_is_refused_with_what_one_looks_like(text: str) -> None:
    with pytest.raises(
        WrongPosition, match=r"expected clicks\[PARTITION\]@OFFSET or PARTITION@OFFSET"
    ) as caught:
        parse_position(text, "clicks")

    assert str(caught.value).isprintable()


def test_a_dead_letter_is_shown_whole() -> None:
    read = letter(b'{"a":1}', (("mine", None), ("headrace.attempt", b"1")), key=b"\xff\x00")

    lines = lines_of(Shown(read, []))

    assert lines[0] == "clicks[3]@7"
    assert "  mine: (none)" in lines
    assert "  headrace.message: no JSON" in lines
    assert lines[lines.index("key (2 bytes, not UTF-8)") + 1].split() == ["00000000", "ff", "00", ".."]
    assert lines[lines.index("value (7 bytes, JSON)") + 1 :] == ["  {", '    "a": 1', "  }"]


def test_a_value_that_is_no_json_is_shown_as_text_and_one_left_out_with_its_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert lines_of(Shown(letter(b"[oh"), []))[-2:] == ["value (3 bytes, text)", "  [oh"]
    assert lines_of(Shown(letter(None), []))[-1] == "value: none"

    monkeypatch.setattr("stream.codec.MAX_DEAD_LETTER_BYTES", 10)
    assert lines_of(Shown(letter(b"x" * 11), []))[-1].startswith("value: 11 bytes, too large for any topic")


def test_attempts_are_shown_when_there_are_several_and_json_holds_all_bytes() -> None:
    first, again = letter(b"\xff"), letter(b"\xff", (("headrace.replayed-from", b"clicks[3]@7"),), offset=9)
    shown = Shown(again, [body_of(first), body_of(again)])

    assert lines_of(shown)[-3] == "all attempts"
    assert lines_of(shown)[-2] == "  clicks[3]@7  attempt 0  decode  RecordError: no JSON"
    said = shown.to_dict()
    assert said["value"] == {"base64": "/w=="}
    assert said["headers"][0] == {  # type: ignore[index]  # a list
        "name": "headrace.replayed-from",
        "value": {"text": "clicks[3]@7"},
    }


def test_json_keeps_its_numbers_escapes_and_doubled_keys() -> None:
    text = '{"a" : 1.50,"a":[ ] , "b,{\\"" : [{"c":12345678901234567890123}, null]}'

    lines = indented(text)

    assert "".join(line.strip() for line in lines) == (
        '{"a": 1.50,"a": [],"b,{\\"": [{"c": 12345678901234567890123},null]}'
    )
    assert lines[:4] == ["{", '  "a": 1.50,', '  "a": [],', '  "b,{\\"": [']


def test_json_nested_deeply_does_not_fill_the_terminal_with_spaces() -> None:
    assert max(map(len, indented("[" * 900 + "]" * 900))) < 50
