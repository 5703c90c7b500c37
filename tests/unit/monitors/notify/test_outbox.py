from __future__ import annotations

from typing import Any

import pytest

from monitors.notify import ChannelPolicy, Message, Notice, Outbox, State
from monitors.notify.outbox import LINES, MOST_FOLDED, MOST_OPEN
from monitors.records import Severity

#: No grouping and no reminders, so that a test is about one thing.
AT_ONCE: dict[str, Any] = {"group_seconds": 0.0, "reminder_seconds": 0.0}


def outbox(**policy: Any) -> Outbox:
    return Outbox(ChannelPolicy(**(AT_ONCE | policy)))


def notice(
    offset: int = 0,
    *,
    severity: Severity = "warning",
    state: State = "event",
    key: str = "",
    pipeline: str = "payments",
    partition: int = 0,
    time: float = 0.0,
    title: str = "",
    subject: str = "",
    part: int | None = None,
) -> Notice:
    return Notice(
        pipeline=pipeline,
        severity=severity,
        state=state,
        key=key or f"key-{partition}-{offset}",
        title=title or f"notice {offset}",
        text="",
        time=time,
        subject=subject,
        part=part,
        topic="payments.alerts",
        partition=partition,
        offset=offset,
    )


def opened(offset: int = 0, key: str = "lag", **other: Any) -> Notice:
    return notice(offset, state="open", key=key, **other)


def closed(offset: int = 0, key: str = "lag", **other: Any) -> Notice:
    return notice(offset, state="closed", key=key, **other)


def told(box: Outbox, now: float) -> Message:
    """What is due now, delivered."""
    message = box.due(now)
    assert message is not None, f"nothing is due at {now}; it waits {box.wait(now)}"
    box.delivered(now)
    return message


def lines(message: Message) -> list[str]:
    """The lines without what stands in parentheses."""
    return [line.partition(" (1970")[0] for line in message.body.splitlines()]


# --- Filter ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("least", "passing"),
    [
        ("info", ["info", "warning", "critical"]),
        ("warning", ["warning", "critical"]),
        ("critical", ["critical"]),
    ],
)
@pytest.mark.parametrize("state", ["event", "open"])
def test_what_is_less_severe_than_the_channel_tells_is_not_told(
    least: Severity, passing: list[str], state: State
) -> None:
    box = outbox(severity=least)
    severities: list[Severity] = ["info", "warning", "critical"]

    taken = [
        severity
        for i, severity in enumerate(severities)
        if box.offer(notice(i, severity=severity, state=state), 0.0)
    ]

    assert taken == passing
    assert box.waiting == len(passing)


def test_a_closing_is_told_if_its_opening_was_whatever_its_severity() -> None:
    box = outbox(severity="critical")
    box.offer(opened(0, severity="critical"), 0.0)
    told(box, 0.0)

    assert box.offer(closed(1, severity="info"), 1.0)
    assert lines(told(box, 1.0)) == ["[critical] closed: payments: notice 1"]


def test_a_closing_of_what_this_channel_never_told_is_told_by_its_own_severity() -> None:
    """Its opening was told before a restart, or it was less severe than the channel tells."""
    box = outbox(severity="critical")

    assert not box.offer(closed(0, severity="warning"), 0.0)
    assert box.offer(closed(1, severity="critical"), 0.0)
    assert lines(told(box, 0.0)) == ["[critical] closed: payments: notice 1"]


# --- Groups ----------------------------------------------------------------------------------------------


def test_notices_are_collected_into_one_message_from_the_first_one_on() -> None:
    box = outbox(group_seconds=30.0)

    box.offer(notice(0), 100.0)
    box.offer(notice(1), 120.0)
    waits = [box.wait(now) for now in (100.0, 120.0, 131.0)]
    early = box.due(129.9)
    message = told(box, 130.0)

    assert waits == [30.0, 10.0, 0.0]
    assert early is None
    assert message.notices == 2
    assert message.title == "[warning] payments: 2 notices"
    assert box.wait(130.0) is None


def test_the_most_severe_come_first_and_of_those_the_newest() -> None:
    box = outbox(severity="info")
    for offset, (severity, time) in enumerate(
        [("info", 9.0), ("critical", 1.0), ("warning", 5.0), ("critical", 2.0), ("critical", float("nan"))]
    ):
        box.offer(notice(offset, severity=severity, time=time), 0.0)  # type: ignore[arg-type]

    message = told(box, 0.0)

    assert [line.split()[3] for line in message.body.splitlines()] == ["3", "1", "4", "2", "0"]
    assert message.severity == "critical"


def test_a_message_has_so_many_lines_and_then_a_number() -> None:
    box = outbox()
    for offset in range(LINES + 5):
        box.offer(notice(offset, time=float(offset)), 0.0)

    message = told(box, 0.0)

    assert len(message.body.splitlines()) == LINES + 1
    assert message.body.endswith("\nand 5 more")
    assert message.notices == LINES + 5


def test_what_opened_and_closed_within_a_group_is_one_line() -> None:
    box = outbox(group_seconds=30.0)
    box.offer(opened(0, severity="critical"), 0.0)
    box.offer(closed(1, severity="info"), 10.0)

    message = told(box, 30.0)

    assert lines(message) == ["[critical] open and closed again: payments: notice 1"]
    assert message.notices == 2
    assert box.open == 0


def test_what_flaps_is_one_line_with_its_number() -> None:
    box = outbox(group_seconds=30.0)
    for offset in range(0, 100, 2):
        box.offer(opened(offset), 0.0)
        box.offer(closed(offset + 1), 0.0)
    box.offer(opened(100), 0.0)

    message = told(box, 30.0)

    assert lines(message) == ["[warning] open: payments: notice 100"]
    assert message.body.endswith("101 notices)")


def test_what_was_told_as_open_and_flaps_is_told_as_closed() -> None:
    box = outbox()
    box.offer(opened(0), 0.0)
    told(box, 0.0)
    for offset, make in enumerate([closed, opened, closed], start=1):
        box.offer(make(offset), 1.0)

    assert lines(told(box, 1.0)) == ["[warning] closed: payments: notice 3"]


def test_a_single_notice_makes_the_title() -> None:
    box = outbox()
    box.offer(opened(0, severity="critical", title="Lag grows"), 0.0)
    first = told(box, 0.0)
    box.offer(closed(1, title="Lag is small again"), 1.0)
    second = told(box, 1.0)

    assert first.title == "[critical] payments: Lag grows"
    assert second.title == "[closed] payments: Lag is small again"


def test_a_title_names_a_few_pipelines() -> None:
    box = outbox()
    for offset in range(5):
        box.offer(notice(offset, pipeline=f"p{offset}", time=-float(offset)), 0.0)

    assert told(box, 0.0).title == "[warning] p0, p1, p2, 2 more: 5 notices"


def test_it_is_over_when_only_closings_are_told_and_nothing_is_open() -> None:
    box = outbox()
    box.offer(opened(0, "a"), 0.0)
    box.offer(opened(1, "b"), 0.0)
    first = told(box, 0.0)
    box.offer(closed(2, "a"), 1.0)
    second = told(box, 1.0)
    box.offer(closed(3, "b"), 2.0)
    third = told(box, 2.0)
    box.offer(notice(4), 3.0)
    fourth = told(box, 3.0)

    assert [item.is_over for item in (first, second, third, fourth)] == [False, False, True, False]


def test_what_is_offered_twice_before_it_is_told_is_told_in_one_line() -> None:
    box = outbox()
    box.offer(notice(0), 0.0)
    box.offer(notice(0), 0.0)

    assert len(told(box, 0.0).body.splitlines()) == 1


def test_two_events_of_one_key_have_a_line_each() -> None:
    box = outbox()
    box.offer(notice(0, key="drift"), 0.0)
    box.offer(notice(1, key="drift"), 0.0)

    assert len(told(box, 0.0).body.splitlines()) == 2


# --- Failures --------------------------------------------------------------------------------------------


def test_a_failed_message_is_tried_again_with_growing_pauses_up_to_the_longest() -> None:
    box = outbox(retry_seconds=5.0, retry_most_seconds=60.0)
    box.offer(notice(0), 0.0)
    now, pauses = 0.0, []

    for _ in range(40):
        assert box.due(now) is not None
        box.failed(now)
        pause = box.wait(now)
        assert pause is not None
        pauses.append(pause)
        assert box.due(now + pause - 0.01) is None
        now += pause

    assert pauses[:6] == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    assert set(pauses[6:]) == {60.0}
    assert told(box, now).notices == 1


def test_pauses_begin_anew_after_a_message_that_arrived() -> None:
    box = outbox(retry_seconds=5.0)
    box.offer(notice(0), 0.0)
    for now in (0.0, 5.0):
        box.due(now)
        box.failed(now)
    told(box, 15.0)

    box.offer(notice(1), 16.0)
    box.due(16.0)
    box.failed(16.0)

    assert box.wait(16.0) == 5.0


def test_a_message_that_failed_takes_along_what_came_meanwhile() -> None:
    box = outbox()
    box.offer(opened(0), 0.0)
    assert box.due(0.0) is not None
    box.offer(notice(1), 0.0)
    box.offer(closed(2), 0.0)
    assert box.due(0.0) is None, "one message at a time"
    box.failed(0.0)

    message = told(box, 5.0)

    assert message.notices == 3
    assert sorted(lines(message)) == [
        "[warning] open and closed again: payments: notice 2",
        "[warning] payments: notice 1",
    ]


def test_what_closes_while_its_opening_is_under_way_is_told_as_closed() -> None:
    box = outbox()
    box.offer(opened(0), 0.0)
    assert box.due(0.0) is not None
    box.offer(closed(1), 0.0)
    box.delivered(0.0)

    assert lines(told(box, 0.0)) == ["[warning] closed: payments: notice 1"]


def test_what_opens_and_closes_again_while_its_opening_is_under_way_is_told_as_closed() -> None:
    box = outbox()
    box.offer(opened(0), 0.0)
    assert box.due(0.0) is not None
    for offset, make in enumerate([closed, opened, closed], start=1):
        box.offer(make(offset), 0.0)
    box.delivered(0.0)

    assert lines(told(box, 0.0)) == ["[warning] closed: payments: notice 3"]


def test_to_say_that_a_message_arrived_that_was_not_handed_out_is_a_mistake_of_ours() -> None:
    with pytest.raises(AssertionError, match="nothing was handed out"):
        outbox().delivered(0.0)


# --- Rate ------------------------------------------------------------------------------------------------


def test_beyond_the_messages_of_an_hour_notices_wait_and_go_together() -> None:
    box = outbox(at_most_per_hour=2)
    for offset, now in enumerate([0.0, 100.0]):
        box.offer(notice(offset), now)
        told(box, now)
    for offset in range(2, 12):
        box.offer(notice(offset), 200.0)

    assert box.due(200.0) is None
    assert box.wait(200.0) == 3_400.0
    assert told(box, 3_600.0).notices == 10
    box.offer(notice(12), 3_601.0)
    assert box.wait(3_601.0) == 99.0
    assert told(box, 3_700.0).notices == 1


def test_many_drifts_do_not_keep_what_is_critical_waiting() -> None:
    box = outbox(at_most_per_hour=8)
    for offset in range(6):
        box.offer(notice(offset), float(offset))
        told(box, float(offset))
    box.offer(notice(6), 10.0)
    assert box.wait(10.0) == 3_590.0

    box.offer(opened(7, severity="critical"), 20.0)
    message = told(box, 20.0)
    assert (message.notices, message.severity) == (2, "critical")
    box.offer(closed(8, severity="critical"), 30.0)
    assert told(box, 30.0).notices == 1

    box.offer(opened(9, severity="critical"), 40.0)
    assert box.wait(40.0) == 3_560.0, "never more than the policy says"


def test_attempts_that_failed_are_no_messages_of_the_hour() -> None:
    box = outbox(at_most_per_hour=1, retry_seconds=1.0, retry_most_seconds=1.0)
    box.offer(notice(0), 0.0)
    for now in range(10):
        assert box.due(float(now)) is not None
        box.failed(float(now))

    assert told(box, 10.0).notices == 1


# --- Reminders -------------------------------------------------------------------------------------------


def test_what_stays_open_is_told_again_at_the_interval_until_it_closes() -> None:
    box = outbox(reminder_seconds=100.0)
    box.offer(opened(0, severity="critical"), 0.0)
    told(box, 0.0)

    assert box.wait(0.0) == 100.0
    assert box.due(99.0) is None
    reminder = told(box, 100.0)
    assert reminder.title == "[still open] payments: notice 0"
    assert lines(reminder) == ["[critical] still open: payments: notice 0"]
    assert box.wait(100.0) == 100.0
    box.offer(closed(1), 150.0)
    told(box, 150.0)
    assert box.wait(150.0) is None


def test_an_event_is_told_once() -> None:
    box = outbox(reminder_seconds=100.0)
    box.offer(notice(0), 0.0)
    told(box, 0.0)

    assert box.wait(0.0) is None


def test_without_an_interval_nothing_is_told_again() -> None:
    box = outbox(reminder_seconds=0.0)
    box.offer(opened(0), 0.0)
    told(box, 0.0)

    assert box.wait(0.0) is None


def test_reminders_that_would_follow_soon_go_along() -> None:
    box = outbox(reminder_seconds=100.0)
    for i, now in enumerate([0.0, 30.0, 90.0]):
        box.offer(opened(i, key=f"k{i}"), now)
        told(box, now)

    message = told(box, 100.0)

    assert message.title == "[warning] payments: 2 still open"
    assert box.wait(100.0) == 90.0, "the third one has its own time"


def test_a_reminder_that_failed_is_tried_again() -> None:
    box = outbox(reminder_seconds=100.0)
    box.offer(opened(0), 0.0)
    told(box, 0.0)
    assert box.due(100.0) is not None
    box.failed(100.0)

    assert box.wait(100.0) == 5.0
    assert told(box, 105.0).title == "[still open] payments: notice 0"


def test_a_reminder_goes_along_with_a_new_notice() -> None:
    box = outbox(reminder_seconds=100.0)
    box.offer(opened(0), 0.0)
    told(box, 0.0)
    box.offer(notice(1, severity="critical"), 100.0)

    message = told(box, 100.0)

    assert message.title == "[critical] payments: 1 notice, 1 still open"
    assert lines(message) == [
        "[critical] payments: notice 1",
        "[warning] still open: payments: notice 0",
    ]
    assert not message.is_over


def test_what_is_remembered_is_not_told_but_reminded_of_and_closed() -> None:
    box = outbox(severity="critical", reminder_seconds=100.0)
    box.remember(opened(0, "a", severity="critical"), 0.0)
    box.remember(opened(1, "b", severity="critical"), 0.0)
    box.remember(opened(2, "c", severity="info"), 0.0)
    box.remember(closed(3, "b"), 0.0)
    box.remember(notice(4, severity="critical"), 0.0)

    assert (box.waiting, box.open) == (0, 1)
    assert told(box, 100.0).title == "[still open] payments: notice 0"
    assert box.offer(closed(5, "a", severity="info"), 101.0)
    assert lines(told(box, 101.0)) == ["[critical] closed: payments: notice 5"]


# --- Bounds ----------------------------------------------------------------------------------------------


def test_beyond_the_capacity_the_oldest_events_become_a_number_of_their_pipeline() -> None:
    box = outbox(capacity=3)
    for offset in range(5):
        box.offer(notice(offset, severity="critical" if offset == 0 else "warning"), 0.0)
    box.offer(notice(0, pipeline="clicks", partition=1), 0.0)

    assert box.waiting == 6
    message = told(box, 0.0)
    assert message.body.splitlines()[-1] == "3 more of payments, the worst of them critical"
    assert message.notices == 6
    assert message.severity == "critical"
    assert message.title == "[critical] payments, clicks: 6 notices"


def test_what_is_open_becomes_a_number_last() -> None:
    box = outbox(capacity=2)
    box.offer(opened(0), 0.0)
    for offset in range(1, 5):
        box.offer(notice(offset), 0.0)

    body = told(box, 0.0).body

    assert "open: payments: notice 0" in body
    assert "3 more of payments" in body


def test_what_opened_as_part_of_a_number_is_told_when_it_closes() -> None:
    box = outbox(capacity=1, reminder_seconds=100.0)
    box.offer(opened(0, "a"), 0.0)
    box.offer(opened(1, "b"), 0.0)
    assert "1 more of payments" in told(box, 0.0).body

    assert box.offer(closed(2, "a", severity="info"), 1.0)
    assert lines(told(box, 1.0)) == ["[warning] closed: payments: notice 2"]


def test_a_channel_that_is_down_for_long_keeps_its_bounds_and_counts_all() -> None:
    box = outbox(capacity=100, severity="info")
    for offset in range(5_000):
        box.offer(notice(offset, pipeline=f"p{offset % 50}"), float(offset))
        box.offer(opened(offset, key=f"k{offset}", partition=1), float(offset))
        if box.due(float(offset)) is not None:
            box.failed(float(offset))

    assert box.waiting == 10_000
    assert len(box._waiting) == 100
    assert len(box._surplus) <= MOST_FOLDED + 1
    assert box.open == MOST_OPEN
    assert box.undelivered() == {("payments.alerts", 0): 0, ("payments.alerts", 1): 0}
    assert told(box, 10_000.0).notices == 10_000
    assert box.undelivered() == {}


# --- Progress --------------------------------------------------------------------------------------------


def test_progress_is_told_of_each_partition_until_it_is_delivered() -> None:
    box = outbox()
    box.offer(notice(5, partition=0), 0.0)
    box.offer(notice(7, partition=1), 0.0)
    assert box.due(0.0) is not None
    box.offer(notice(8, partition=1), 0.0)

    assert box.undelivered() == {("payments.alerts", 0): 5, ("payments.alerts", 1): 7}
    box.delivered(0.0)
    assert box.undelivered() == {("payments.alerts", 1): 8}
    told(box, 0.0)
    assert box.undelivered() == {}


def test_a_notice_that_lies_nowhere_holds_up_no_progress() -> None:
    box = outbox()
    watchdog = Notice(
        pipeline="p", severity="critical", state="open", key="k", title="silent", text="", time=0.0
    )

    assert box.offer(watchdog, 0.0)
    assert box.undelivered() == {}
    assert told(box, 0.0).body == "[critical] open: p: silent (1970-01-01 00:00:00 UTC)"


# --- Parts ----------------------------------------------------------------------------------------------


def of_part(part: int, offset: int = 0, subject: str = "lag, payments", **other: Any) -> Notice:
    given: dict[str, Any] = {"state": "open", "title": f"{subject}[{part}]", "key": f"{subject}/{part}"}
    return notice(offset, partition=part, subject=subject, part=part, **(given | other))


def test_what_several_partitions_have_is_one_line_that_names_them() -> None:
    box = outbox(group_seconds=5.0)
    for part in (0, 1, 2, 7):
        box.offer(of_part(part, time=float(part)), 0.0)

    message = told(box, 5.0)

    assert message.body.splitlines() == [
        "[warning] open: payments: lag, payments[0-2, 7] (1970-01-01 00:00:07 UTC, payments.alerts[7]@0, 4 partitions)"
    ]
    assert message.title == "[warning] payments: lag, payments[0-2, 7]"
    assert message.notices == 4


def test_what_differs_in_more_than_its_partition_has_lines_of_its_own() -> None:
    box = outbox(group_seconds=5.0)
    for item in (
        of_part(0),
        of_part(1, severity="critical"),
        of_part(2, subject="no-labels, payments"),
        of_part(3, pipeline="clicks"),
        of_part(4, state="closed"),
        notice(9, subject="lag, payments"),
    ):
        box.offer(item, 0.0)

    assert sorted(lines(told(box, 5.0))) == [
        "[critical] open: payments: lag, payments[1]",
        "[warning] closed: payments: lag, payments[4]",
        "[warning] open: clicks: lag, payments[3]",
        "[warning] open: payments: lag, payments[0]",
        "[warning] open: payments: no-labels, payments[2]",
        "[warning] payments: notice 9",
    ]


def test_notices_of_partitions_told_together_are_counted() -> None:
    box = outbox(group_seconds=5.0)
    for offset, state in enumerate(("open", "closed", "open")):
        for part in (0, 1):
            box.offer(of_part(part, offset, state=state), 0.0)

    message = told(box, 5.0)

    assert message.body.endswith("2 partitions, 6 notices)")
    assert message.notices == 6


def test_reminders_of_several_partitions_are_one_line_and_each_can_still_close() -> None:
    box = outbox(reminder_seconds=100.0, group_seconds=5.0)
    for part in (0, 1, 2):
        box.offer(of_part(part), 0.0)
    told(box, 5.0)

    reminder = told(box, 105.0)
    assert reminder.title == "[still open] payments: lag, payments[0-2]"
    assert lines(reminder) == ["[warning] still open: payments: lag, payments[0-2]"]

    for part in (0, 2):
        box.offer(of_part(part, 1, state="closed"), 110.0)
    closing = told(box, 115.0)
    assert lines(closing) == ["[warning] closed: payments: lag, payments[0, 2]"]
    assert not closing.is_over
    box.offer(of_part(1, 1, state="closed"), 120.0)
    assert told(box, 125.0).is_over


def test_lines_are_bounded_after_partitions_are_put_together() -> None:
    box = outbox(group_seconds=5.0)
    for part in range(3 * LINES):
        box.offer(of_part(part), 0.0)
    for offset in range(LINES):
        box.offer(notice(offset), 1.0)

    message = told(box, 5.0)

    assert len(message.body.splitlines()) == LINES + 1
    assert message.body.splitlines()[-1] == "and 1 more"
    assert message.notices == 4 * LINES
