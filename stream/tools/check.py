"""`headrace check`: is everything as a pipeline needs it? One item for each thing looked at."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from stream.build import new_pipeline, open_keeper, trusted_modules
from stream.checkpoint import ANEW, REBUILD, CommitMetadata, state_shape
from stream.errors import ConfigError, EnvironmentRefused, SnapshotError
from stream.log import Committed
from stream.notifications import channels_of
from stream.relay.log import Place
from stream.relay.places import choose_beginning, group_of
from stream.settings import AllBut, Settings, load_settings
from stream.settings.connection import aiokafka_config, connection_warnings
from stream.snapshots.file import pickled, unpickled
from stream.snapshots.keeper import offset_of
from stream.tools.cluster import Bounds, Cluster, Commit, TopicFacts
from stream.tools.topics import Item, meaning, topic_items, topic_names

#: Seconds that each client gets.
TIMEOUT: Final = 5.0
#: Made-up rows that a learner is tried on.
ROWS: Final = 100


def check(path: Path) -> Iterator[Item]:
    """Look at the settings, the learner, the broker with each client, the topics and the offsets, in this order.

    What can't be looked at because of something before it is left out.
    """
    try:
        settings = load_settings(path)
    except ConfigError as error:
        for mistake in error.mistakes:
            yield Item(
                item="settings",
                state="failed",
                text=str(mistake),
                remedy=f"change {mistake.place}; docs/reference/settings.md says what there is.",
            )
        return
    yield settings_item(settings)
    yield from learner_items(settings)
    yield snapshots_item(settings)
    yield from notification_items(settings)
    for warning in connection_warnings(settings.kafka):
        yield Item(
            item="connection",
            state="warning",
            text=warning,
            remedy="set security_protocol = SASL_SSL and ca_file in [kafka].",
        )
    brokers = list(broker_items(settings))
    yield from brokers
    if any(item.state == "failed" for item in brokers if "kafka-python" in item.item):
        return
    try:
        with Cluster(settings, TIMEOUT) as cluster:
            found = cluster.topics([*topic_names(settings).values(), *settings.relayed_topics])
            yield from topic_items(settings, found)
            events = found.get(settings.topics.events)
            if events is not None:
                yield Item(item="partitions", state="ok", text=meaning(events.partitions))
                yield offsets_item(
                    settings,
                    events,
                    cluster.commits(settings.name, events.name),
                    cluster.bounds(events.name, events.partitions),
                    has_outputs(settings, found, cluster),
                )
                if settings.relayed_topics and all(topic in found for topic in settings.relayed_topics):
                    yield relay_item(settings, cluster, events, [found[it] for it in settings.relayed_topics])
    except EnvironmentRefused as error:
        yield Item(item="topics", state="failed", text=str(error), remedy="mend that and check again.")


# --- Settings and learner --------------------------------------------------------------------------------


def settings_item(settings: Settings) -> Item:
    """What the settings say, in a line."""
    features = settings.event.features
    if isinstance(features, AllBut):
        features = "all fields but " + ", ".join(
            dict.fromkeys((*features.except_, *(n for n in (settings.event.id, settings.event.label) if n)))
        )
    elif not isinstance(features, str):
        features = ", ".join(features[:5]) + (f" and {len(features) - 5} more" if len(features) > 5 else "")
    label_text = f"label {settings.event.label}"
    if settings.labels.topic is not None:
        label_text = f"labels from {settings.labels.topic}, {settings.labels.label or settings.event.label}"
    watches = ", ".join(f"{item.detector} on {item.watch}" for item in settings.drift)
    return Item(
        item="settings",
        state="ok",
        text=f"{settings.path}: pipeline {settings.name}, {settings.task}; {label_text}; "
        f"features: {features}; metrics: {', '.join(settings.metrics.use)}; drift: {watches or 'not watched'}.",
    )


def learner_items(settings: Settings) -> Iterator[Item]:
    """Build the learner and try it on made-up rows; one of the user's own is tried for all that a learner promises."""
    from learners.checks import example_rows, find_problems  # noqa: PLC0415
    from learners.errors import LearnerError  # noqa: PLC0415
    from learners.learner import Learner  # noqa: PLC0415
    from learners.registry import load_learner  # noqa: PLC0415
    from stream.build import new_estimator  # noqa: PLC0415

    rows = example_rows(settings.task, n=ROWS)
    try:
        learner = Learner(new_estimator(settings), settings.task)
        for _ in range(2):  # the first time is slower: imports, caches
            begun = time.perf_counter()
            for x, y in rows:
                learner.predict(dict(x))
                learner.learn(dict(x), y)
            seconds = (time.perf_counter() - begun) / len(rows)
    except LearnerError as error:
        yield Item(item="learner", state="failed", text=str(error), remedy="see [learner] in the settings.")
        return
    except Exception as error:
        # It may be right: a learner of one's own may want the features that its events have.
        yield Item(
            item="learner",
            state="warning",
            text=f"on made-up rows it raises {type(error).__name__}: {error}.",
            remedy="if it needs certain features this says nothing; try headrace backtest with rows of yours.",
        )
        return
    yield Item(
        item="learner",
        state="ok",
        text=f"{learner.name}: {seconds * 1e6:,.0f} microseconds to predict and learn a made-up row of "
        f"{len(rows[0][0])} features.",
    )
    if settings.snapshots.enabled:
        try:
            payload = pickled(new_pipeline(settings, learner.estimator).state)
            unpickled(memoryview(payload.state), trusted_modules(settings), "no snapshot of it can be opened")
        except SnapshotError as error:
            yield Item(
                item="learner",
                state="warning",
                text=f"{error}",
                remedy="until that is done a restart learns every partition again from its origin.",
            )
    own = settings.learner
    if own.build is not None:
        build = partial(load_learner, own.build, own.parameters, settings.folder, task=settings.task)
        for problem in find_problems(build, settings.task, rows=rows):
            yield Item(
                item="learner",
                state="warning",
                text=f"on made-up rows: {problem}",
                remedy="call learners.check_learner with rows of your own to see whether it matters.",
            )


def snapshots_item(settings: Settings) -> Item:
    """Can the snapshots be reached, and what seals them?"""
    if not settings.snapshots.enabled:
        return Item(
            item="snapshots",
            state="warning",
            text="are not enabled: each restart learns every partition again from its origin.",
            remedy="leave [snapshots] enabled out of the settings.",
        )
    try:
        store = open_keeper(settings).store
        partitions = store.partitions()
    except (EnvironmentRefused, SnapshotError, OSError) as error:
        return Item(
            item="snapshots",
            state="failed",
            text=str(error),
            remedy="mend that, or set [snapshots] location.",
        )
    sealed = "a key of the settings" if settings.snapshots.key is not None else "a key made beside them"
    return Item(
        item="snapshots",
        state="ok",
        text=f"{store.address} answers, with snapshots of {len(partitions)} partition{'s' * (len(partitions) != 1)}; "
        f"sealed with {sealed}.",
    )


def notification_items(settings: Settings) -> Iterator[Item]:
    """Can each channel's address be read, and can Apprise use it? Nothing is sent."""
    if not settings.notifications:
        return
    from monitors.notify.sender import service_name  # noqa: PLC0415

    try:
        channels = channels_of(settings)
    except EnvironmentRefused:
        yield Item(item="notifications", state="ok", text="skipped: pip install 'headrace[monitor]'")
        return
    except ConfigError as error:
        for mistake in error.mistakes:
            yield Item(
                item="notifications",
                state="failed",
                text=str(mistake),
                remedy=f"change {mistake.place}, or run this where the monitor runs: a worker needs no address.",
            )
        return
    for channel in channels:
        policy = channel.policy
        reminders = f"every {policy.reminder_seconds:g} s" if policy.reminder_seconds else "never"
        yield Item(
            item=f"notifications to {channel.name}",
            state="ok",
            text=f"{service_name(channel.url)}, least severity {policy.severity}; collects {policy.group_seconds:g} s, "
            f"at most {policy.at_most_per_hour} messages an hour, reminds {reminders}. Nothing was sent: headrace "
            "notify-test does.",
        )


# --- The broker ------------------------------------------------------------------------------------------


def broker_items(settings: Settings) -> list[Item]:
    """Connect with each of the three clients, at the same time."""
    clients: dict[str, Callable[[Settings], int | None]] = {
        "confluent-kafka": _confluent_kafka,
        "kafka-python": _kafka_python,
        "aiokafka": _aiokafka,
    }
    with ThreadPoolExecutor(len(clients)) as pool:
        return list(pool.map(lambda entry: _broker_item(settings, *entry), clients.items()))


def _broker_item(settings: Settings, client: str, connect: Callable[[Settings], int | None]) -> Item:
    item = f"broker with {client}"
    try:
        count = connect(settings)
    except EnvironmentRefused as error:
        return Item(
            item=item,
            state="failed",
            text=str(error),
            remedy="start it (headrace broker, for one on this machine) or mend [kafka] in the settings.",
        )
    if count is None:
        return Item(item=item, state="ok", text="skipped: pip install 'headrace[monitor]'")
    brokers = f"{count} broker{'' if count == 1 else 's'}"
    return Item(item=item, state="ok", text=f"{settings.kafka.bootstrap_servers} answers, {brokers}.")


def _confluent_kafka(settings: Settings) -> int:
    from stream.kafka.client import count_brokers  # noqa: PLC0415

    return count_brokers(settings, TIMEOUT)


def _kafka_python(settings: Settings) -> int:
    with Cluster(settings, TIMEOUT) as cluster:
        return cluster.brokers()


def _aiokafka(settings: Settings) -> int | None:
    """Brokers that the control plane's client sees; None: it is not installed."""
    try:
        from aiokafka.client import AIOKafkaClient  # type: ignore[import-untyped]  # noqa: PLC0415
    except ImportError:
        return None
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL + 1)

    async def connect() -> int:
        client = AIOKafkaClient(**aiokafka_config(settings.kafka), request_timeout_ms=round(TIMEOUT * 1_000))
        try:
            async with asyncio.timeout(TIMEOUT):
                await client.bootstrap()
            return len(client.cluster.brokers())
        finally:
            await client.close()

    try:
        return asyncio.run(connect())
    except Exception as error:  # its own errors, time-outs, TLS: all mean that it can't connect
        raise EnvironmentRefused(
            f"no connection to {settings.kafka.bootstrap_servers} within {TIMEOUT:.0f} s "
            f"({str(error) or type(error).__name__})."
        ) from error


# --- Offsets ---------------------------------------------------------------------------------------------


def has_outputs(settings: Settings, found: Mapping[str, TopicFacts], cluster: Cluster) -> bool:
    """Whether any prediction, outcome or dead letter was ever written; among the alerts lie incidents, too."""
    others = {"events", "status", "alerts"}
    outputs = [name for purpose, name in topic_names(settings).items() if purpose not in others]
    return any(
        bounds.end > 0
        for name in outputs
        if name in found
        for bounds in cluster.bounds(name, found[name].partitions)
    )


def offsets_item(
    settings: Settings,
    events: TopicFacts,
    commits: Mapping[int, Commit],
    bounds: list[Bounds],
    outputs: bool,
) -> Item:
    """Can a worker go on from what the group has committed?"""
    name = settings.name

    def failed(text: str, remedy: str) -> Item:
        return Item(item="offsets", state="failed", text=text, remedy=remedy)

    if not commits:
        if outputs:
            return failed(
                f"group {name} has committed nothing, but there are outputs: its offsets were lost (an idle group's "
                "expire after seven days) or the topic was recreated.",
                ANEW,
            )
        start = settings.topics.start
        return Item(
            item="offsets",
            state="ok",
            text=f"nothing committed yet by group {name}; a worker begins at "
            f"{start if isinstance(start, str) else start.isoformat()}.",
        )
    for partition, commit in sorted(commits.items()):
        where = f"{events.name}[{partition}]"
        try:
            metadata = CommitMetadata.decode(commit.metadata, group=name, where=where)
            metadata.require_same(
                pipeline=name,
                topic_id=events.topic_id,
                partitions=events.partitions,
                shape=state_shape(settings),
                where=where,
            )
        except EnvironmentRefused as error:
            text = str(error)
            cut = min(i for i in (text.find(REBUILD), text.find(ANEW), len(text)) if i >= 0)
            # The sentence leads from one to the other: "Put it back as it was, or: headrace rebuild ..."
            return failed(text[:cut].strip().replace(", or:", "."), text[cut:])
        first, end = bounds[partition]
        snapshot = metadata.snapshot if settings.snapshots.enabled else None
        if snapshot is None and metadata.base:
            return failed(
                f"{where}: the state began with a file of rows, and can be had from a snapshot only.",
                f"leave [snapshots] enabled out of the settings, or give headrace rebuild the same file again. {ANEW}",
            )
        since = metadata.origin if snapshot is None else offset_of(snapshot)
        if since < first:
            return failed(
                f"{where}: the log now begins at {first}, and the state can only be had from {since} on "
                f"({'where it began' if snapshot is None else 'the snapshot that was committed last'}).",
                f"keep the events longer (retention.ms). {REBUILD} {ANEW}",
            )
        if commit.next_offset > end:
            return failed(
                f"{where}: committed up to {commit.next_offset}, but the log ends at {end}: records were lost.",
                f"restore the topic. {ANEW}",
            )
    behind = sum(max(0, bounds[partition].end - commit.next_offset) for partition, commit in commits.items())
    left = events.partitions - len(commits)
    return Item(
        item="offsets",
        state="ok",
        text=f"committed by group {name} for {len(commits)} of {events.partitions} partitions, at most {behind:,} "
        f"records behind{f'; {left} not begun' if left else ''}.",
    )


def relay_item(settings: Settings, cluster: Cluster, events: TopicFacts, sources: list[TopicFacts]) -> Item:
    """Can a relay go on from what its group has committed, and how far behind is it?"""
    group = group_of(settings)
    behind = committed = total = 0
    for facts in sources:
        total += facts.partitions
        commits = cluster.commits(group, facts.name)
        for partition, (first, end) in enumerate(cluster.bounds(facts.name, facts.partitions)):
            commit = commits.get(partition)
            if commit is None:
                continue
            committed += 1
            behind += max(0, end - commit.next_offset)
            try:
                choose_beginning(
                    settings,
                    Place(facts.name, partition),
                    Committed(*commit),
                    topic_id=facts.topic_id,
                    events_id=events.topic_id,
                    first=first,
                    end=end,
                    at=lambda _: 0,
                    relayed=None,
                    lost=None,
                )
            except EnvironmentRefused as error:
                return Item(item="relay", state="failed", text=str(error), remedy="do as it says.")
    if not committed:
        start = settings.topics.start
        where = start if isinstance(start, str) else start.isoformat()
        text = f"nothing committed yet by group {group}; it begins at {where}"
        if cluster.commits(settings.name, events.name):
            return Item(
                item="relay",
                state="warning",
                text=f"{text}, though the pipeline has begun. If it has relayed before, its place is lost: the topic "
                "was made anew, or the group's offsets expired.",
                remedy=f"nothing, if it has not; else headrace relay {settings.path} --from relayed (behind what is in "
                f"{events.name}), earliest or latest.",
            )
    else:
        text = f"committed by group {group} for {committed} of {total} partitions, at most {behind:,} records behind"
    return Item(item="relay", state="ok", text=f"{text}. headrace run starts it.")
