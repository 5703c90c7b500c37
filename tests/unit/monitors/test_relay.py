from __future__ import annotations

from monitors.fleet import RelayState, Source, Standing
from monitors.fleet.relay import FRESH_SECONDS, MOST_ENDS, MOST_PARTITIONS

ONE = Source("chargebacks", 0)
OTHER = Source("chargebacks", 1)


def relay(*looks: tuple[float, Standing]) -> RelayState:
    """A relay that was looked at, at these times."""
    found = RelayState("fraud.relay", ["chargebacks"])
    for now, standing in looks:
        found.take({ONE: standing}, now)
    return found


def test_a_record_waits_since_the_first_look_that_saw_it() -> None:
    item = relay(
        (0.0, Standing(10, 0, 10)), (5.0, Standing(10, 0, 20)), (10.0, Standing(10, 0, 30))
    ).partitions[ONE]

    assert (item.lag_records, item.waits_since, item.progressed_at) == (20, 5.0, 0.0)

    item.take(Standing(20, 0, 30), 15.0)  # the next one is the first of those that were seen at 10
    assert (item.lag_records, item.waits_since, item.progressed_at) == (10, 10.0, 15.0)

    item.take(Standing(30, 0, 30), 20.0)
    assert (item.lag_records, item.waits_since, item.waited_seconds(99.0)) == (0, None, 0.0)

    item.take(Standing(30, 0, 31), 25.0)
    assert (item.waits_since, item.progressed_at) == (25.0, 20.0)


def test_without_a_commit_all_that_is_there_is_lag() -> None:
    item = relay((0.0, Standing(None, 40, 100))).partitions[ONE]

    assert (item.lag_records, item.waits_since) == (60, 0.0)


def test_what_was_deleted_before_it_was_relayed_is_no_lag() -> None:
    assert relay((0.0, Standing(10, 40, 100))).partitions[ONE].lag_records == 60
    assert relay((0.0, Standing(10, 100, 100))).partitions[ONE].lag_records == 0


def test_a_commit_behind_the_end_is_no_negative_lag() -> None:
    assert relay((0.0, Standing(200, 0, 100))).partitions[ONE].lag_records == 0


def test_a_topic_that_was_made_anew_is_waited_for_anew() -> None:
    item = relay((0.0, Standing(10, 0, 500)), (50.0, Standing(None, 0, 20))).partitions[ONE]

    assert (item.lag_records, item.waits_since) == (20, 50.0)


def test_memory_is_bounded_and_the_oldest_record_that_waits_is_not_forgotten() -> None:
    found = relay(*((float(second), Standing(0, 0, second + 1)) for second in range(10 * MOST_ENDS)))

    item = found.partitions[ONE]
    assert item.waits_since == 0.0
    assert len(item._ends) <= MOST_ENDS
    item.take(Standing(5 * MOST_ENDS, 0, 10 * MOST_ENDS), 10.0 * MOST_ENDS)
    assert item.waits_since is not None
    assert 5 * MOST_ENDS <= item.waits_since < 7 * MOST_ENDS

    many = {Source("t", number): Standing(0, 0, 1) for number in range(2 * MOST_PARTITIONS)}
    found.take(many, 0.0)
    assert len(found.partitions) == MOST_PARTITIONS


def test_partitions_that_are_gone_are_forgotten() -> None:
    found = RelayState("fraud.relay", ["chargebacks"])
    found.take({ONE: Standing(0, 0, 1), OTHER: Standing(0, 0, 1)}, 0.0)
    found.take({OTHER: Standing(0, 0, 1)}, 5.0)

    assert list(found.partitions) == [OTHER]


def test_topics_are_summed_up_and_told_only_while_they_are_known() -> None:
    found = RelayState("fraud.relay", ["chargebacks"])
    found.take({ONE: Standing(0, 0, 1), OTHER: Standing(0, 0, 0)}, 0.0)
    found.take({ONE: Standing(0, 0, 5), OTHER: Standing(0, 0, 2)}, 50.0)

    assert found.by_topic(60.0) == {"chargebacks": (7, 60.0)}
    assert found.by_topic(50.0 + FRESH_SECONDS + 1.0) == {}
    assert [source for source, _ in found.behind()] == [ONE, OTHER]


def test_a_failure_keeps_what_was_known_until_the_next_look() -> None:
    found = relay((10.0, Standing(3, 0, 5)))
    found.problem = "no permission"

    told = found.to_dict(30.0)
    assert (told["problem"], told["age_seconds"], told["lag_records"]) == ("no permission", 20.0, 2)
    assert told["partitions"] == [
        {
            "topic": "chargebacks",
            "partition": 0,
            "next_offset": 3,
            "end": 5,
            "lag_records": 2,
            "waited_seconds": 20.0,
            "idle_seconds": 20.0,
        }
    ]

    found.take({ONE: Standing(5, 0, 5)}, 35.0)
    assert found.to_dict(35.0)["problem"] is None


def test_before_the_first_look_nothing_is_known() -> None:
    told = relay().to_dict(10.0)

    assert (told["age_seconds"], told["lag_records"], told["waited_seconds"]) == (None, None, None)
