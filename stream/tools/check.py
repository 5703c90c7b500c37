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

from stream.build import state_shape
from stream.checkpoint import ANEW, CommitMetadata
from stream.errors import ConfigError, EnvironmentRefused
from stream.settings import AllBut, Settings, load_settings
from stream.settings.connection import aiokafka_config, connection_warnings
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
            found = cluster.topics(topic_names(settings).values())
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
    watches = ", ".join(f"{item.detector} on {item.watch}" for item in settings.drift)
    return Item(
        item="settings",
        state="ok",
        text=f"{settings.path}: pipeline {settings.name}, {settings.task}; label {settings.event.label}; "
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
    from stream.kafka_log import count_brokers  # noqa: PLC0415

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
    """Whether anything was ever written to the pipeline's outputs."""
    outputs = [name for purpose, name in topic_names(settings).items() if purpose not in {"events", "status"}]
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
            return failed(text.removesuffix(ANEW).strip(), ANEW)
        first, end = bounds[partition]
        if metadata.origin < first:
            return failed(
                f"{where}: the log now begins at {first}, but the state began at {metadata.origin}: it can't be "
                "rebuilt by replay.",
                f"keep the events longer (retention.ms). {ANEW}",
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
