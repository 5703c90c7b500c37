"""What `headrace monitor` hands to the control plane: the settings as plain values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from monitors.app.config import MonitorConfig, WatchedPipeline
from monitors.fleet import Bounds, PipelineFacts
from stream.notifications import channels_of
from stream.relay.places import group_of
from stream.settings import Settings
from stream.settings.connection import aiokafka_config


def facts_of(settings: Settings) -> PipelineFacts:
    """What the control plane wants to know of a pipeline."""
    topics = settings.topics
    return PipelineFacts(
        name=settings.name,
        task=settings.task,
        events_topic=topics.events,
        alerts_topic=topics.alerts,
        status_topic=topics.status,
        dead_letters_topic=topics.dead_letters,
        learner=settings.learner.use or settings.learner.build or "",
        parameters=settings.learner.parameters,
        metrics=settings.metrics.use,
        window=settings.metrics.window,
        watches=[(item.watch, item.detector) for item in settings.drift],
        status_interval_seconds=settings.worker.status_interval_seconds,
        settings_file=str(settings.path),
        brokers=settings.kafka.bootstrap_servers,
        relay_group=group_of(settings) if settings.relayed_topics else "",
        relayed_topics=list(settings.relayed_topics),
    )


def bounds_of(settings: Settings) -> Bounds:
    """When the watchdogs of a pipeline bark."""
    bounds = Bounds(**settings.watchdogs.model_dump())
    if not settings.snapshots.enabled:
        return replace(bounds, snapshot_age_seconds=0)
    if bounds.snapshot_age_seconds > 0:
        # One that is not yet due is not old.
        least = 3 * settings.snapshots.interval_seconds
        return replace(bounds, snapshot_age_seconds=max(bounds.snapshot_age_seconds, least))
    return bounds


def read_token(file: Path | None, environ: str | None) -> str | None:
    """The token of those who may look at the monitor: the file's content, or what the environment says.

    Raises:
        ValueError: Both are given, or the file can't be read.
    """
    if file is None:
        return environ or None
    if environ:
        raise ValueError("HEADRACE_MONITOR_TOKEN and --token-file are both given; expected one of them.")
    try:
        return file.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ValueError(f"the token can't be read from {file} ({reason}).") from error


def monitor_config(
    several: Sequence[Settings],
    *,
    host: str,
    port: int,
    token: str | None,
    names: Sequence[str],
    version: str,
) -> MonitorConfig:
    """All that the monitor is told.

    Raises:
        ValueError: See `MonitorConfig`.
        ConfigError: An address of `[[notifications]]` can't be used.
    """
    return MonitorConfig(
        pipelines=[
            WatchedPipeline(
                facts=facts_of(settings),
                connection=aiokafka_config(settings.kafka),
                bounds=bounds_of(settings),
                channels=channels_of(settings),
            )
            for settings in several
        ],
        host=host,
        port=port,
        token=token,
        names=names,
        version=version,
    )
