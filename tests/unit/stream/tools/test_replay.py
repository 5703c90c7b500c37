from __future__ import annotations

from typing import Any

import pytest

from stream.codec import MAX_RECORD_BYTES
from stream.records import STAGES
from stream.tools.cluster import Commit, Found
from stream.tools.replay import Place, Replayed, Rules, Selection, event_headers, picked
from tests.unit.stream.tools.test_dead_letters import found, letter


def rules(**other: Any) -> Rules:
    given: dict[str, Any] = {
        "pipeline": "p",
        "events": "clicks",
        "partitions": 4,
        "most_bytes": 1_048_588,
        "max_attempts": 3,
    }
    return Rules(**(given | other))


def test_a_replayed_event_has_its_own_headers_how_often_and_where_it_stood_first() -> None:
    first = event_headers(letter(headers=(("mine", b"1"), ("headrace.stage", b"theirs"))))
    second = event_headers(letter(headers=first, offset=20))

    assert first == [
        ("mine", b"1"),
        ("headrace.stage", b"theirs"),
        ("headrace.attempt", b"1"),
        ("headrace.replayed-from", b"clicks[3]@7"),
    ]
    assert second == [*first[:2], ("headrace.attempt", b"2"), ("headrace.replayed-from", b"clicks[3]@7")]


def test_the_mark_of_unreadable_headers_stays_with_the_dead_letter() -> None:
    assert [name for name, _ in event_headers(letter(headers=(("headrace.unreadable-headers", b"x"),)))] == [
        "headrace.attempt",
        "headrace.replayed-from",
    ]


def test_a_dead_letter_that_can_be_an_event_is_sent() -> None:
    assert rules().reason_to_leave(letter(b"{}", (("a", b"1"),), key=b"k")) is None


@pytest.mark.parametrize(
    ("reason", "bad", "other"),
    [
        ("no_value", {"value": None}, {}),
        ("too_large", {"value": b"x" * (MAX_RECORD_BYTES + 1)}, {}),
        ("too_large", {"key": b"x" * (MAX_RECORD_BYTES + 1)}, {}),
        ("too_large", {"value": b"x" * 1_000}, {"most_bytes": 1_100}),
        ("header", {"headers": (("a", None),)}, {}),
        ("since", {"timestamp": 9}, {"since": 10}),
        ("attempts", {"headers": (("headrace.attempt", b"3"),)}, {}),
        ("foreign", {}, {"pipeline": "other"}),
        ("foreign", {}, {"events": "other"}),
        ("foreign", {}, {"partitions": 3}),
    ],
)
def test_what_can_not_or_may_not_be_sent_is_left_with_its_reason(
    reason: str, bad: dict[str, Any], other: dict[str, Any]
) -> None:
    assert rules(**other).reason_to_leave(letter(**bad)) == reason


def test_a_dead_letter_whose_value_was_left_out_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stream.codec.MAX_DEAD_LETTER_BYTES", 10)

    assert rules().reason_to_leave(letter(b"x" * 11)) == "omitted"


def select(
    records: list[Found], place: Place, limit: int = 99, **other: Any
) -> tuple[list[int], Place, Selection]:
    """Offsets that are sent, the place afterwards, and the selection."""
    selection = Selection(rules(**other), limit)
    end = records[-1].offset + 2  # a control record
    sent = []
    for batch in picked(3, iter([records[:2], records[2:]]), place, end, selection):
        sent += [item.letter_offset for item in batch.letters]
        place = batch.place
    return sent, place, selection


def test_a_second_selection_goes_on_behind_the_first_for_each_stage_by_itself() -> None:
    records = [found(at=n, stage=("decode", "learn")[n % 2]) for n in range(6)]

    learned, place, _ = select(records, Place.at(0), stages=["learn"])
    rest, place, _ = select(records, place)
    nothing, place, _ = select(records, place)

    assert (learned, rest, nothing) == ([1, 3, 5], [0, 2, 4], [])
    assert place == Place.at(7)


def test_a_limit_ends_at_the_last_that_is_sent() -> None:
    records = [found(at=n) for n in range(6)]

    some, place, selection = select(records, Place.at(0), limit=3)
    more, _, _ = select(records, place)

    assert selection.is_full
    assert (some, more) == ([0, 1, 2], [3, 4, 5])


def test_what_is_left_is_counted_once_and_not_met_again() -> None:
    records = [found(at=0), found(None, at=1), Found("t", 3, 2, 0, None, b"x", ()), found(at=3, stage="odd")]

    sent, place, selection = select(records, Place.at(0))
    _, _, again = select(records, place)

    assert sent == [0]
    assert selection.left == {"no_value": 1, "foreign": 2}
    assert again.picked.total() == 0


def test_a_place_survives_its_commit_and_is_void_for_a_topic_made_anew() -> None:
    place = Place.at(5).moved(["learn"], 9).moved(["decode"], 2)

    commit = place.to_commit(topic_id="x", run="r")

    assert commit.next_offset == 5
    assert Place.from_commit(commit, "x") == place
    assert Place.from_commit(commit, "y") is None
    assert Place.from_commit(None, "x") is None


@pytest.mark.parametrize("metadata", ["", "x", "[]", "3", "{}", '{"topic_id": "x", "ahead": 3}'])
def test_an_offset_that_another_tool_has_set_holds_for_all_stages(metadata: str) -> None:
    assert Place.from_commit(Commit(8, metadata), "x") == Place.at(8)


def test_the_metadata_stay_below_what_a_broker_takes() -> None:
    place = Place({stage: 2**62 + n for n, stage in enumerate(STAGES)})

    assert len(place.to_commit(topic_id="x" * 22, run="r" * 32).metadata) < 4_096


def test_what_was_done_is_told_in_sentences() -> None:
    replayed = Replayed(
        topic="p.dead-letters",
        events="clicks",
        dry_run=False,
        sent={0: 1_000, 3: 1},
        left={"attempts": 2},
        limit_reached=True,
        begun_anew=[3],
    )

    assert list(replayed.sentences()) == [
        "No earlier replay is remembered for partition 3: it begins with the oldest dead letter there.",
        "Sent 1,001 dead letters to clicks (clicks[0]: 1,000, clicks[3]: 1).",
        "  2 left for good: replayed as often as --max-attempts allows.",
        "That is all that --limit allows; run it again for what may be left.",
    ]
