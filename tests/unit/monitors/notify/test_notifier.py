from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from monitors.notify import ChannelConfig, ChannelFacts, ChannelPolicy, Message, Notice, Notifier
from monitors.notify import notifier as module

AT_ONCE = ChannelPolicy(severity="info", group_seconds=0.0, retry_seconds=0.001, retry_most_seconds=0.001)


def notice(offset: int, partition: int = 0, topic: str | None = "alerts") -> Notice:
    return Notice(
        pipeline="p",
        severity="warning",
        state="event",
        key=f"k{offset}",
        title=f"notice {offset}",
        text="",
        time=0.0,
        topic=topic,
        partition=partition,
        offset=offset,
    )


def config(name: str, policy: ChannelPolicy = AT_ONCE) -> ChannelConfig:
    return ChannelConfig(name=name, url=f"json://user:s3cret@{name}/path", policy=policy)


class Services:
    """What arrived at each channel; a channel may be made to fail or to hang."""

    def __init__(self) -> None:
        self.arrived: dict[str, list[Message]] = {}
        self.reasons: dict[str, str] = {}
        self.hanging: set[str] = set()

    def sender(self, config: ChannelConfig) -> Callable[[Message], asyncio.Future[str | None]]:
        self.arrived[config.name] = []

        async def send(message: Message) -> str | None:
            if config.name in self.hanging:
                await asyncio.Event().wait()
            if config.name in self.reasons:
                return self.reasons[config.name]
            self.arrived[config.name].append(message)
            return None

        return send  # type: ignore[return-value]  # a coroutine is awaitable as well


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


def facts_of(notifier: Notifier, name: str) -> ChannelFacts:
    return next(facts for facts in notifier.facts() if facts.name == name)


async def stopped(notifier: Notifier, task: asyncio.Task[None]) -> None:
    notifier.stop()
    async with asyncio.timeout(10):
        await task


def test_a_notice_goes_to_every_channel_and_is_settled_then() -> None:
    async def scenario() -> None:
        services = Services()
        notifier = Notifier([config("chat"), config("mail")], sender=services.sender)
        notifier.offer(notice(5))
        assert notifier.settled() == {("alerts", 0): 5}

        task = asyncio.create_task(notifier.run())
        await until(lambda: notifier.settled() == {("alerts", 0): 6})
        await stopped(notifier, task)

        assert [len(services.arrived[name]) for name in ("chat", "mail")] == [1, 1]
        facts = facts_of(notifier, "chat")
        assert (facts.scheme, facts.sent, facts.failed, facts.waiting) == ("json", 1, 0, 0)
        assert facts.last_error is None
        assert facts.last_sent is not None

    asyncio.run(scenario())


def test_a_channel_that_hangs_or_fails_delays_no_other_but_what_is_settled() -> None:
    async def scenario() -> None:
        services = Services()
        notifier = Notifier([config("hangs"), config("fails"), config("works")], sender=services.sender)
        services.hanging.add("hangs")
        services.reasons["fails"] = "the service answered 500"
        task = asyncio.create_task(notifier.run())

        for offset in range(3):
            notifier.offer(notice(offset))
            await until(lambda offset=offset: facts_of(notifier, "works").sent == offset + 1)  # type: ignore[misc]
        await until(lambda: facts_of(notifier, "fails").failed > 3)
        assert notifier.settled() == {("alerts", 0): 0}
        assert facts_of(notifier, "fails").last_error == "the service answered 500"
        assert facts_of(notifier, "fails").waiting == 3

        del services.reasons["fails"]
        await until(lambda: facts_of(notifier, "fails").waiting == 0)
        assert facts_of(notifier, "fails").last_error is None
        assert sum(message.notices for message in services.arrived["fails"]) == 3
        assert notifier.settled() == {("alerts", 0): 0}, "one still hangs"
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(scenario())


def test_what_hangs_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        monkeypatch.setattr(module, "STOP_SECONDS", 0.05)
        services = Services()
        notifier = Notifier([config("hangs")], sender=services.sender)
        services.hanging.add("hangs")
        notifier.offer(notice(0))
        task = asyncio.create_task(notifier.run())
        await until(lambda: notifier._channels[0].outbox.wait(0.0) is None)

        await stopped(notifier, task)

        assert notifier.settled() == {("alerts", 0): 0}

    asyncio.run(scenario())


@pytest.mark.parametrize("channels", [[], [config("chat")]])
def test_a_stop_before_the_start_is_not_lost(channels: list[ChannelConfig]) -> None:
    async def scenario() -> None:
        notifier = Notifier(channels, sender=Services().sender)
        notifier.stop()
        async with asyncio.timeout(10):
            await notifier.run()

    asyncio.run(scenario())


def test_a_bug_in_one_channel_is_not_hidden() -> None:
    async def scenario() -> None:
        def sender(config: ChannelConfig) -> module.Send:
            async def send(message: Message) -> str | None:
                raise ZeroDivisionError

            return send

        notifier = Notifier([config("chat")], sender=sender)
        notifier.offer(notice(0))
        async with asyncio.timeout(10):
            await notifier.run()

    with pytest.raises(ExceptionGroup, match="unhandled errors"):
        asyncio.run(scenario())


def test_without_channels_everything_is_settled() -> None:
    notifier = Notifier([])
    notifier.offer(notice(4))
    notifier.offer(notice(9, partition=1))

    assert notifier.settled() == {("alerts", 0): 5, ("alerts", 1): 10}


def test_a_record_that_nobody_need_be_told_of_is_settled_unless_an_earlier_one_waits() -> None:
    notifier = Notifier([config("chat")], sender=Services().sender)
    notifier.skip("alerts", 0, 3)
    assert notifier.settled() == {("alerts", 0): 4}

    notifier.offer(notice(4))
    notifier.skip("alerts", 0, 5)

    assert notifier.settled() == {("alerts", 0): 4}


def test_a_notice_that_lies_nowhere_is_told_and_settles_nothing() -> None:
    notifier = Notifier([config("chat")], sender=Services().sender)
    notifier.offer(notice(0, topic=None))

    assert notifier.settled() == {}
    assert facts_of(notifier, "chat").waiting == 1


def test_a_record_that_is_read_again_is_no_news() -> None:
    """As after a rebalance: a partition is read again from what was committed."""
    notifier = Notifier([config("chat")], sender=Services().sender)
    for offset in (0, 1, 0, 1, 2):
        notifier.offer(notice(offset))

    assert facts_of(notifier, "chat").waiting == 3
    assert notifier.settled() == {("alerts", 0): 0}


def test_records_are_recognised_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RECENT", 10)
    notifier = Notifier([config("chat")], sender=Services().sender)
    for offset in range(1_000):
        notifier.offer(notice(offset))

    assert len(notifier._recent) == 10


def test_nothing_that_is_shown_holds_a_secret() -> None:
    secret = config("chat")
    notifier = Notifier([secret], sender=Services().sender)

    assert "s3cret" not in repr(secret)
    assert "s3cret" not in repr(notifier.facts())


def test_of_a_topic_that_was_made_anew_the_offsets_start_over_and_nothing_undelivered_is_lost() -> None:
    async def scenario() -> None:
        services = Services()
        notifier = Notifier([config("chat")], sender=services.sender)
        services.reasons["chat"] = "down"
        notifier.offer(notice(900))
        task = asyncio.create_task(notifier.run())
        await until(lambda: facts_of(notifier, "chat").failed > 0)

        notifier.begin_again("alerts", 0)
        assert notifier.settled() == {}
        notifier.offer(notice(3))
        assert notifier.settled() == {("alerts", 0): 3}

        del services.reasons["chat"]
        await until(lambda: notifier.settled() == {("alerts", 0): 4})
        assert sum(message.notices for message in services.arrived["chat"]) == 2
        await stopped(notifier, task)

    asyncio.run(scenario())
