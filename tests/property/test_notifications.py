from __future__ import annotations

from dataclasses import dataclass, field

from hypothesis import given
from hypothesis import strategies as st

from monitors.notify import ChannelConfig, ChannelPolicy, Message, Notice, Notifier
from monitors.notify.notices import SEVERITIES, at_least
from monitors.notify.outbox import LINES
from monitors.records import Severity

LENGTH = 30
TOPIC = "alerts"

severities = st.sampled_from(SEVERITIES)


@st.composite
def logs(draw: st.DrawFn) -> dict[int, list[Notice]]:
    """Two partitions of a topic with alerts on it."""
    log: dict[int, list[Notice]] = {}
    for partition in (0, 1):
        kinds = draw(
            st.lists(
                st.tuples(st.sampled_from(["event", "open", "closed"]), st.sampled_from("abc"), severities),
                min_size=LENGTH // 2,
                max_size=LENGTH,
            )
        )
        log[partition] = [
            Notice(
                pipeline=draw(st.sampled_from(["p", "q"])),
                severity=severity,
                state=state,  # type: ignore[arg-type]
                key=f"{partition}/{key}",
                title=f"<{partition}:{offset}>",
                text="",
                time=float(offset),
                topic=TOPIC,
                partition=partition,
                offset=offset,
            )
            for offset, (state, key, severity) in enumerate(kinds)
        ]
    return log


policies = st.builds(
    ChannelPolicy,
    severity=severities,
    group_seconds=st.sampled_from([0.0, 3.0]),
    at_most_per_hour=st.sampled_from([1, 3, 1_000]),
    reminder_seconds=st.just(0.0),
    retry_seconds=st.just(1.0),
    retry_most_seconds=st.just(8.0),
    capacity=st.sampled_from([1, 3, 1_000]),
)

#: What happens next: some records of a partition are read, time goes on, a channel's next message is waited for and
#: taken, the one under way arrives or fails, the caller commits, the process dies.
operations = st.lists(
    st.one_of(
        st.tuples(st.just("read"), st.integers(0, 1), st.integers(1, 5)),
        st.tuples(st.just("wait"), st.sampled_from([1, 5, 4_000]), st.just(0)),
        st.tuples(st.sampled_from(["take", "take", "arrive", "fail"]), st.integers(0, 2), st.just(0)),
        st.tuples(st.sampled_from(["commit", "commit", "die"]), st.just(0), st.just(0)),
    ),
    min_size=10,
    max_size=100,
)


@dataclass
class NaiveChannel:
    """A channel as a list of what it was given, for one life of the process."""

    least: Severity
    waiting: list[Notice] = field(default_factory=list)
    under_way: list[Notice] = field(default_factory=list)
    open: set[str] = field(default_factory=set)

    def offer(self, notice: Notice) -> None:
        passes = at_least(notice.severity, self.least)
        if notice.state == "closed":
            passes = passes or notice.key in self.open
            self.open.discard(notice.key)
        elif notice.state == "open" and passes:
            self.open.add(notice.key)
        if passes:
            self.waiting.append(notice)


class World:
    """A log, processes that read it one after the other, and what arrived at the channels."""

    def __init__(self, log: dict[int, list[Notice]], policies: list[ChannelPolicy]) -> None:
        self.log = log
        self.policies = policies
        self.now = 0.0
        self.committed = {0: 0, 1: 0}
        self.arrived: list[set[tuple[int, int]]] = [set() for _ in policies]
        self.start()

    def start(self) -> None:
        self.notifier = Notifier(
            [ChannelConfig(name=f"c{i}", url="json://h", policy=it) for i, it in enumerate(self.policies)],
            clock=lambda: self.now,
        )
        self.outboxes = [channel.outbox for channel in self.notifier._channels]
        self.naive = [NaiveChannel(policy.severity) for policy in self.policies]
        self.position = dict(self.committed)

    def read(self, partition: int) -> None:
        offset = self.position[partition]
        if offset < len(self.log[partition]):
            self.position[partition] += 1
            notice = self.log[partition][offset]
            self.notifier.offer(notice)
            for channel in self.naive:
                channel.offer(notice)

    def take(self, i: int) -> Message | None:
        self.now += self.outboxes[i].wait(self.now) or 0.0
        message = self.outboxes[i].due(self.now)
        if message is not None:
            naive = self.naive[i]
            naive.under_way, naive.waiting = naive.waiting, []
            assert message.notices == len(naive.under_way)
            titles = [notice.title for notice in naive.under_way if notice.state == "event"]
            if message.notices <= min(LINES, self.policies[i].capacity):
                assert all(title in message.body for title in titles)
        return message

    def arrive(self, i: int) -> None:
        naive = self.naive[i]
        if naive.under_way:
            self.outboxes[i].delivered(self.now)
            self.arrived[i] |= {(notice.partition, notice.offset) for notice in naive.under_way}
            naive.under_way = []

    def fail(self, i: int) -> None:
        naive = self.naive[i]
        if naive.under_way:
            self.outboxes[i].failed(self.now)
            naive.waiting, naive.under_way = naive.under_way + naive.waiting, []

    def check(self) -> None:
        settled = self.notifier.settled()
        for partition, position in self.position.items():
            held = [
                notice.offset
                for channel in self.naive
                for notice in (*channel.waiting, *channel.under_way)
                if notice.partition == partition
            ]
            read = position > self.committed[partition] or (TOPIC, partition) in settled
            if read:
                assert settled[TOPIC, partition] == min([*held, position])

    def commit(self) -> None:
        for (_, partition), offset in self.notifier.settled().items():
            assert offset >= self.committed[partition], "what is settled never goes back"
            self.committed[partition] = offset

    def drain(self) -> None:
        """Read to the end with services that work; it must come to rest within a bounded number of messages."""
        for i in range(len(self.policies)):
            self.fail(i)
        for partition in self.log:
            while self.position[partition] < len(self.log[partition]):
                self.read(partition)
        for i, outbox in enumerate(self.outboxes):
            for _ in range(3):
                if self.take(i) is not None:
                    self.arrive(i)
            assert outbox.wait(self.now) is None


@given(log=logs(), policies=st.lists(policies, min_size=1, max_size=3), operations=operations)
def test_each_notice_that_a_channel_tells_arrives_whatever_fails_and_whenever_the_process_dies(
    log: dict[int, list[Notice]], policies: list[ChannelPolicy], operations: list[tuple[str, int, int]]
) -> None:
    world = World(log, policies)

    for operation, value, times in operations:
        channel = value % len(policies)
        match operation:
            case "read":
                for _ in range(times):
                    world.read(value)
            case "wait":
                world.now += value
            case "take":
                world.take(channel)
            case "arrive":
                world.arrive(channel)
            case "fail":
                world.fail(channel)
            case "commit":
                world.commit()
            case "die":
                world.start()
        world.check()
    world.drain()
    world.commit()

    assert world.committed == {partition: len(notices) for partition, notices in log.items()}
    for policy, arrived in zip(policies, world.arrived, strict=True):
        told = {
            (notice.partition, notice.offset)
            for notices in log.values()
            for notice in notices
            if at_least(notice.severity, policy.severity)
        }
        assert told <= arrived


@given(
    policy=policies,
    steps=st.lists(st.tuples(st.booleans(), st.sampled_from([0.0, 0.5, 1.0, 100.0, 1_000.0])), max_size=200),
)
def test_no_hour_has_more_messages_than_allowed(
    policy: ChannelPolicy, steps: list[tuple[bool, float]]
) -> None:
    notifier = Notifier([ChannelConfig(name="c", url="json://h", policy=policy)], clock=lambda: now)
    outbox = notifier._channels[0].outbox
    sent: list[float] = []
    now = 0.0

    for offset, (works, pause) in enumerate(steps):
        now += pause
        notifier.offer(
            Notice(
                pipeline="p",
                severity="critical",
                state="event",
                key="k",
                title="t",
                text="",
                time=now,
                topic=TOPIC,
                partition=0,
                offset=offset,
            )
        )
        if outbox.due(now) is not None:
            if works:
                outbox.delivered(now)
                sent.append(now)
            else:
                outbox.failed(now)

    for time in sent:
        assert sum(time - 3_600.0 < other <= time for other in sent) <= policy.at_most_per_hour
