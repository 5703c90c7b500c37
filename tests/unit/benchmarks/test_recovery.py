from __future__ import annotations

from typing import Any

import pytest

from benchmarks.recovery import Recovery, recovery_of, recovery_p95, recovery_table

KILLED_AT = 1_700_000_000.0  # 2023-11-14T22:13:20Z
SNAPSHOT = "0/00000000000000012000-0123456789abcdef.snapshot"


def line(second: int, event: str, **more: Any) -> dict[str, Any]:
    return {"timestamp": f"2023-11-14T22:13:{second:02d}.500000Z", "event": event, **more}


RESTORED = line(29, "partition restored", snapshot=SNAPSHOT, replay_records=10_003)
SUCCESSOR = [
    line(12, "joining the group, waiting for partitions"),
    line(26, "partitions assigned", partitions=[0]),
    line(27, "ending the transaction of a worker that is gone", writer="other"),
    RESTORED,
]


def recovery(predicted: float) -> Recovery:
    return Recovery(replayed=10_000, assigned=5.0, fenced=None, restored=5.5, predicted=predicted)


def test_a_recovery_ends_with_the_first_prediction_after_the_committed_offset() -> None:
    seen = [
        (22_001, KILLED_AT - 0.1),
        (22_002, KILLED_AT + 0.1),
        (22_003, KILLED_AT + 10.0),
        (22_004, KILLED_AT + 10.1),
    ]

    found = recovery_of(KILLED_AT, SUCCESSOR, seen)

    assert found == Recovery(replayed=10_003, assigned=6.5, fenced=7.5, restored=9.5, predicted=10.0)


def test_a_recovery_is_not_over_before_the_successor_predicts() -> None:
    late_ones_of_the_dead_worker = [(22_002, KILLED_AT + 0.1)]

    assert recovery_of(KILLED_AT, SUCCESSOR[:-1], late_ones_of_the_dead_worker) is None
    assert recovery_of(KILLED_AT, SUCCESSOR, late_ones_of_the_dead_worker) is None


def test_what_the_successor_said_before_the_kill_does_not_count() -> None:
    earlier = line(10, "partition restored", snapshot=SNAPSHOT, replay_records=0)

    assert recovery_of(KILLED_AT, [earlier], [(22_003, KILLED_AT + 10.0)]) is None


def test_a_recovery_without_a_snapshot_is_refused() -> None:
    without = line(29, "partition restored", snapshot=None, replay_records=22_003)

    with pytest.raises(SystemExit, match="without a snapshot"):
        recovery_of(KILLED_AT, [*SUCCESSOR[:-1], without], [])


@pytest.mark.parametrize("fenced", [None, 7.5])
def test_the_parts_of_a_recovery_add_up(fenced: float | None) -> None:
    found = Recovery(replayed=1, assigned=6.5, fenced=fenced, restored=9.5, predicted=10.0)

    assert sum(found.phases.values()) == pytest.approx(found.predicted)
    assert min(found.phases.values()) >= 0.0


def test_the_table_has_quantiles_of_the_whole_and_of_each_part() -> None:
    many = [recovery(6.0 + number / 10) for number in range(20)]

    table = recovery_table(many).splitlines()

    assert recovery_p95(many) == pytest.approx(7.8)
    assert table[2] == "| **from the kill to the first new prediction** | 6.90 | 7.80 | 7.90 |"
    assert table[3].endswith("| 5.00 | 5.00 | 5.00 |")
    assert len(table) == 3 + len(many[0].phases)
