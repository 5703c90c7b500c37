from __future__ import annotations

from collections.abc import Mapping

import pytest

from stream.relay.log import Place
from stream.relay.places import RelayMetadata
from stream.settings import Settings
from stream.tools.cluster import Bounds, Commit, TopicFacts
from stream.tools.relayed import Look, RelayView, relay_view


def settings() -> Settings:
    return Settings.model_validate(
        {
            "name": "p",
            "task": "binary",
            "topics": {"events": "clicks"},
            "labels": {"topic": "buys"},
            "learner": {"use": "logistic-regression"},
        }
    )


def topic(name: str) -> TopicFacts:
    return TopicFacts(
        name=name, partitions=2, replication_factor=1, topic_id=f"id of {name}", configs={"a": "b"}
    )


def look(
    places: Mapping[int, int | None],
    ends: Mapping[int, int],
    *,
    relays: int = 1,
    first: int = 0,
    merging: bool = False,
) -> Look:
    metadata = RelayMetadata(
        topic_id="id of buys", events_id="id of clicks", writer="p.relay-h-0", merging=merging
    ).encode()
    return Look(
        relays,
        {Place("buys", p): Commit(offset, metadata) for p, offset in places.items() if offset is not None},
        {Place("buys", p): Bounds(first, end) for p, end in ends.items()},
    )


def view(first: Look, last: Look | None = None, seconds: float = 2.0) -> RelayView:
    return relay_view(
        settings(),
        topic("clicks"),
        [topic("buys")],
        first=first,
        last=first if last is None else last,
        seconds=0.0 if last is None else seconds,
    )


def test_place_end_and_lag_are_told_of_each_partition() -> None:
    found = view(look({0: 90, 1: None}, {0: 100, 1: 40}, first=30))

    assert found.to_dict() == {
        "group": "p.relay",
        "relays": 1,
        "lag_records": 20,
        "partitions": [
            {"topic": "buys", "partition": 0, "next_offset": 90, "end": 100, "lag_records": 10},
            {"topic": "buys", "partition": 1, "next_offset": None, "end": 40, "lag_records": 10},
        ],
    }


def test_a_relay_that_has_brought_all_over_needs_no_sentence() -> None:
    assert view(look({0: 100, 1: 40}, {0: 100, 1: 40})).warning == ""


def test_that_no_relay_runs_is_said_with_what_waits_and_with_the_command() -> None:
    assert view(look({0: 99, 1: 40}, {0: 100, 1: 40}, relays=0)).warning == (
        "No relay runs now while 1 record of buys[0] waits; start one: headrace run settings.toml (with workers) or "
        "headrace relay settings.toml"
    )
    assert view(look({}, {0: 0, 1: 40}, relays=0)).warning.startswith(
        "No relay runs now and nothing is committed for buys[0], buys[1] while 40 records of buys[1] wait; start one:"
    )


def test_that_nothing_is_committed_although_a_relay_runs_is_said() -> None:
    warning = view(look({0: 0}, {0: 0, 1: 0})).warning

    assert warning.startswith("The relay has committed nothing for buys[1], though one runs:")


def test_a_relay_that_stands_still_while_records_wait_is_said() -> None:
    before, after = look({0: 50, 1: 40}, {0: 100, 1: 40}), look({0: 50, 1: 41}, {0: 103, 1: 50})

    assert view(before, after).warning.startswith(
        "53 records of buys[0] wait and none was relayed within 2 s, though one runs:"
    )


def test_records_that_came_between_the_looks_are_on_their_way() -> None:
    assert view(look({0: 100, 1: 40}, {0: 100, 1: 40}), look({0: 100, 1: 40}, {0: 130, 1: 40})).warning == ""


def test_a_lag_that_grows_is_said_and_one_that_is_worked_off_is_not() -> None:
    before = look({0: 0, 1: 0}, {0: 5_000, 1: 5_000})

    grown = view(before, look({0: 1_000, 1: 1_000}, {0: 7_000, 1: 5_100})).warning

    assert grown.startswith("The relay is behind, and its lag grows: by 1,000 records of buys[0] within 2 s.")
    assert view(before, look({0: 4_000, 1: 4_000}, {0: 7_000, 1: 7_000})).warning == ""


def test_a_lag_of_a_few_records_may_grow() -> None:
    assert view(look({0: 0, 1: 0}, {0: 900, 1: 0}), look({0: 100, 1: 0}, {0: 1_900, 1: 0})).warning == ""


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (
            look({0: 10, 1: 40}, {0: 100, 1: 100}, first=30),
            "buys[0]: relayed up to 10, and the log now begins at 30",
        ),
        (look({0: 40, 1: 200}, {0: 100, 1: 100}), "buys[1]: relayed up to 200, but the log ends at 100"),
    ],
)
def test_a_place_that_is_lost_is_said_with_what_to_do(seen: Look, said: str) -> None:
    warning = view(seen).warning

    assert warning.startswith(f"The relay can't go on: {said}")
    assert "headrace relay settings.toml --from relayed" in warning


def test_a_merge_under_way_is_no_lost_place() -> None:
    assert "can't go on" not in view(look({0: 10, 1: 10}, {0: 20, 1: 20}, merging=True, relays=0)).warning
