"""What is handed to the notification channels, and up to where it counts as told."""

from __future__ import annotations

from typing import Any

from monitors.app.telling import Teller
from monitors.fleet import PipelineState
from monitors.notify import ChannelConfig, ChannelPolicy, Message, Notifier
from tests.unit.monitors.fleet_cases import DRIFT, FACTS, INCIDENT, record


async def never(message: Message) -> str | None:
    raise AssertionError(message)


class Case:
    """A pipeline's state with a teller that has one channel."""

    def __init__(self, **told: int) -> None:
        self.state = PipelineState(FACTS)
        channel = ChannelConfig(name="chat", url="json://chat", policy=ChannelPolicy(severity="info"))
        self.notifier = Notifier([channel], sender=lambda config: never)
        self.teller = Teller(self.state, self.notifier)
        self.teller.begin({0: told.get("told", 0)})

    def take(self, offset: int, value: bytes, *, live: bool = True) -> None:
        applied = self.state.apply("alerts", 0, offset, value, seen_at=1_000_000.0)
        self.teller.take(0, offset, applied, live=live)

    def facts(self) -> Any:
        return self.notifier.facts()[0]


def test_what_an_earlier_run_told_is_remembered_and_what_came_after_it_is_told() -> None:
    case = Case(told=11)
    case.take(10, record(INCIDENT), live=False)
    case.take(11, record(DRIFT), live=False)
    assert (case.facts().open, case.facts().waiting) == (1, 0)

    case.teller.history_is_read()

    assert case.facts().waiting == 1
    assert case.teller.to_commit() == {}


def test_what_nobody_need_be_told_of_is_committed() -> None:
    case = Case(told=11)
    case.take(11, b"x")
    assert case.teller.to_commit() == {0: 12}

    case.teller.committed({0: 12})

    assert case.teller.to_commit() == {}


def test_what_has_not_moved_is_committed_again_when_asked_so_that_the_broker_does_not_forget_it() -> None:
    case = Case(told=11)
    assert case.teller.to_commit(again=True) == {0: 11}

    case.take(11, b"x")

    assert case.teller.to_commit(again=True) == {0: 12}


def test_of_an_alerts_topic_that_was_made_anew_all_is_told() -> None:
    case = Case(told=500)
    case.take(500, b"x")
    case.teller.committed(case.teller.to_commit())

    case.state.begin_again("alerts", 0)
    case.teller.begin_again(0)
    case.take(0, b"x", live=False)
    case.take(1, record(DRIFT), live=False)
    case.teller.history_is_read()

    assert case.facts().waiting == 1
    assert case.teller.to_commit() == {0: 1}
