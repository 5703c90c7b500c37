from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from stream.errors import EnvironmentRefused, FencedError
from stream.log import Committed
from stream.records import Headers
from stream.relay.log import Place, SourceRecord
from stream.relay.places import RelayMetadata
from stream.relay.relay import MOST_BYTES, PAUSE, Relay
from stream.settings import Settings
from tests.unit.stream.relay.memory import Clock, Died, Fault, Logs, MemoryRelay, relay_settings

A0, A1, L0 = Place("a", 0), Place("a", 1), Place("labels", 0)


def logs(events_partitions: int = 1) -> Logs:
    found = Logs({"a": 2, "labels": 1}, events_partitions)
    found.add(A0, *range(20))
    found.add(A1, 0, 1, 5, 9)
    found.add(L0, *range(10))
    return found


def relay(
    logs: Logs,
    *,
    writer: str = "p.relay-test-0",
    stop: int | None = None,
    settings: Settings | None = None,
    **arguments: Any,
) -> MemoryRelay:
    """Run a relay to the end; `stop` looks at `should_stop` later it is told to end instead."""
    log, clock = MemoryRelay(logs, writer), Clock()
    looks = 0

    def should_stop() -> bool:
        nonlocal looks
        looks += 1
        return stop is not None and looks > stop

    try:
        Relay(
            log,
            settings or relay_settings(),
            stop_at_end=stop is None,
            should_stop=should_stop,
            clock=clock,
            sleep=clock.sleep,
            **arguments,
        ).run()
    finally:
        assert log.has_left
    return log


def expected(logs: Logs, *places: Place) -> list[bytes | None]:
    return [record.value for place in places for record in logs.sources[place]]


def assert_relayed_once(logs: Logs) -> None:
    for place in logs.sources:
        found = [
            r.value for partition in logs.events for r, _ in partition if (r.topic, r.partition) == place
        ]
        assert found == expected(logs, place)


def test_all_partitions_go_into_the_one_of_the_events_with_where_they_come_from() -> None:
    found = logs()

    relay(found)

    assert_relayed_once(found)
    assert sorted(found.values()[0], key=str) == sorted(expected(found, A0, A1, L0), key=str)
    record, headers = found.events[0][0]
    assert headers == [
        ("headrace.relay.pipeline", b"p"),
        ("headrace.relay.kind", b"events"),
        ("headrace.relay.position", f"{record.topic}[{record.partition}]@{record.offset}".encode()),
    ]


def test_partition_p_goes_to_partition_p_where_there_are_several() -> None:
    found = Logs({"a": 2}, 2)
    found.add(A0, 0, 1)
    found.add(A1, 0)

    relay(found)

    assert found.values() == [expected(found, A0), expected(found, A1)]


def test_a_records_own_headers_come_first() -> None:
    found = Logs({"a": 1})
    found.add(A0, 0)
    found.sources[A0][0] = found.sources[A0][0]._replace(headers=[("trace", b"1"), ("empty", None)])

    relay(found)

    assert [name for name, _ in found.events[0][0][1]][:3] == ["trace", "empty", "headrace.relay.pipeline"]


@pytest.mark.parametrize("step", ["send_offsets", "commit"])
@pytest.mark.parametrize("fault", ["no answer", "done, no answer", "aborted", "fenced"])
def test_each_result_of_a_commit_loses_nothing_and_repeats_nothing(step: str, fault: Fault) -> None:
    found = logs()
    found.faults[step] = [None, fault, fault, None, fault]

    relay(found)

    assert_relayed_once(found)


def test_an_abort_that_fails_costs_the_producer_and_no_record() -> None:
    found = logs()
    found.faults = {"commit": ["aborted"], "abort": ["no answer", "fenced"]}

    relay(found)

    assert_relayed_once(found)


def test_a_producer_that_is_fenced_while_it_writes_loses_nothing() -> None:
    found = logs()
    found.faults["send"] = [None, None, None, "fenced"]

    relay(found)

    assert_relayed_once(found)


def test_a_producer_that_is_fenced_again_and_again_is_another_process() -> None:
    found = logs()
    found.faults["commit"] = ["fenced"] * 9

    with pytest.raises(FencedError, match="another process uses the transactional id"):
        relay(found)


@pytest.mark.parametrize(
    ("step", "fault"),
    [
        ("claim", "dies after"),
        ("send_offsets", "dies before"),
        ("send_offsets", "dies after"),
        ("commit", "dies before"),
        ("commit", "dies after"),
    ],
)
def test_a_successor_goes_on_where_a_dead_relay_stopped(step: str, fault: Fault) -> None:
    found = logs()
    found.faults[step] = [fault]

    with pytest.raises(Died):
        relay(found)
    relay(found, writer="p.relay-other-0")

    assert_relayed_once(found)


def test_what_was_polled_in_a_rebalance_is_polled_again() -> None:
    found = logs()
    found.faults["poll"] = [None, "rebalance", None, "rebalance"]

    relay(found)

    assert_relayed_once(found)


def test_the_end_is_committed_past_control_records() -> None:
    found = logs()
    found.end[A0] = 25

    relay(found)

    assert found.committed[A0].next_offset == 25


def test_the_end_waits_until_readers_of_the_events_can_get_there() -> None:
    found = logs()
    found.faults["is_readable"] = ["no answer"] * 5

    relay(found)

    assert found.faults["is_readable"] == []


def test_a_foreign_transaction_that_keeps_the_end_from_readers_is_an_error_in_the_end() -> None:
    found = logs()
    found.faults["is_readable"] = ["no answer"] * 100_000

    with pytest.raises(EnvironmentRefused, match="keeps the end of log from readers"):
        relay(found)


def test_it_is_not_at_the_end_before_other_relays_are() -> None:
    """This one has no partitions: what the others commit is what counts."""
    found = logs()
    log, clock = MemoryRelay(found), Clock()
    log.take_assigned = lambda: ()  # type: ignore[method-assign]  # the share of this member
    polls = 0

    def others(seconds: float) -> list[Any]:
        nonlocal polls
        polls += 1
        if polls == 10:
            ends = {place: Committed(log.bounds(place)[1], "") for place in found.sources}
            found.committed |= ends
        return []

    log.poll = others  # type: ignore[assignment]

    Relay(
        log, relay_settings(), stop_at_end=True, should_stop=lambda: False, clock=clock, sleep=clock.sleep
    ).run()

    assert polls == 10


def test_told_to_stop_it_leaves_with_all_committed() -> None:
    found = logs()

    log = relay(found, stop=3)

    assert not log.in_transaction
    sent = sum(map(len, found.values()))
    assert sent
    assert sum(committed.next_offset for committed in found.committed.values()) >= sent


def test_a_transaction_is_bounded_in_bytes() -> None:
    found = Logs({"a": 1})
    found.add(A0, *range(7))
    found.sources[A0] = [record._replace(value=b"x" * (MOST_BYTES // 2)) for record in found.sources[A0]]
    log, clock = MemoryRelay(found), Clock()
    it = Relay(
        log, relay_settings(), stop_at_end=True, should_stop=lambda: False, clock=clock, sleep=clock.sleep
    )

    it.run()

    assert it.figures.transactions == 4
    assert it.figures.records == 7


def test_transactions_hold_less_where_the_broker_takes_longer() -> None:
    found = Logs({"a": 1})
    found.add(A0, *range(4_000))
    log, clock = MemoryRelay(found), Clock()
    log.batch = 4_000
    send = log.send

    def slow(to: int, record: SourceRecord, headers: Headers) -> None:
        clock.now += 0.000_1
        send(to, record, headers)

    log.send = slow  # type: ignore[method-assign]
    it = Relay(
        log, relay_settings(), stop_at_end=True, should_stop=lambda: False, clock=clock, sleep=clock.sleep
    )

    it.run()

    assert it.figures.too_long == 2  # of 1,000 and of 500 records
    assert it.figures.transactions == 2 + 10  # of 250
    assert_relayed_once(found)


def test_the_time_that_offsets_take_is_no_time_in_which_readers_wait() -> None:
    found = logs()
    log, clock = MemoryRelay(found), Clock()
    send_offsets = log.send_offsets

    def slow(commits: Mapping[Place, Committed]) -> None:
        clock.now += 10.0
        send_offsets(commits)

    log.send_offsets = slow  # type: ignore[method-assign]
    it = Relay(
        log, relay_settings(), stop_at_end=True, should_stop=lambda: False, clock=clock, sleep=clock.sleep
    )

    it.run()

    assert it.figures.longest < 0.05


def test_at_a_low_rate_it_waits_between_transactions_and_never_inside_one() -> None:
    found = logs()
    log, clock = MemoryRelay(found), Clock()
    it = Relay(
        log, relay_settings(), stop_at_end=True, should_stop=lambda: False, clock=clock, sleep=clock.sleep
    )

    it.run()

    assert max(clock.slept) <= PAUSE
    assert sum(1 for seconds in clock.slept if seconds > PAUSE / 2) >= it.figures.transactions - 1


# Where it begins ------------------------------------------------------------------------------------------------


def committed(offset: int, **fields: Any) -> Committed:
    known = {"topic_id": "a-id", "events_id": "events-id", "writer": "w"} | fields
    return Committed(offset, RelayMetadata(**known).encode())


@pytest.mark.parametrize("restarted", [False, True])
def test_a_partition_that_is_added_to_a_source_is_relayed_whole_wherever_a_new_relay_would_begin(
    restarted: bool,
) -> None:
    """What was written to it until the relay has seen it came after the pipeline's beginning."""
    latest = relay_settings(topics={"events": "log", "start": "latest"})
    found = logs()
    relay(found, settings=latest)
    assert found.values() == [[]]
    if restarted:  # and what it commits says so still
        relay(found, settings=latest, writer="p.relay-other-0")

    added = Place("a", 2)
    found.sources[added] = []
    found.add(added, 0, 1, 2)
    found.partitions["a"] = 3
    found.add(A0, 20)
    relay(found, settings=latest)

    assert sorted(found.values()[0]) == sorted([b"a[0]@20", *expected(found, added)])  # type: ignore[type-var]


def test_what_is_lost_is_said_and_not_relayed_twice() -> None:
    found = logs()
    relay(found)
    found.committed.clear()  # as after seven days without a member

    with pytest.raises(
        EnvironmentRefused, match="has committed nothing, but log has records that were relayed from it"
    ):
        relay(found)
    found.add(A0, 30)
    relay(found, lost="relayed")

    assert_relayed_once(found)


def test_a_partition_whose_offsets_are_deleted_goes_on_where_the_operator_says() -> None:
    found = logs()
    found.committed[A0] = committed(3)
    found.first[A0] = 10
    found.sources[A0] = found.sources[A0][10:]

    with pytest.raises(
        EnvironmentRefused, match=r"a\[0\]: relayed up to 3, and the log now begins at 10: 7 offsets were"
    ):
        relay(found)
    relay(found, lost="earliest")

    assert_relayed_once(found)
