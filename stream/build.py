"""From settings to the objects that run: the wiring, top to bottom."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import structlog
from river import base

from learners.learner import Learner
from learners.registry import build_learner, load_learner
from monitors import DriftMonitor, DriftWatch, Prequential
from stream.budget import DeadLetterBudget
from stream.checkpoint import state_shape
from stream.decoding import new_decoder
from stream.errors import EnvironmentRefused
from stream.health import HealthBoard, HealthPolicy, HealthServer
from stream.labels import LabelBook, LabelPolicy, RecentIds
from stream.pipeline import Pipeline, State
from stream.process import WriterSlot, spare_the_collector
from stream.settings import Settings
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, in_background
from stream.snapshots.key import local_key
from stream.snapshots.pickling import HAS_COPIES
from stream.snapshots.store import LocalDirectory, SnapshotStore
from stream.worker import WorkerPolicy

log = structlog.get_logger()


def new_estimator(settings: Settings) -> base.Estimator:
    """A fresh River estimator as the settings describe it."""
    learner = settings.learner
    if learner.build is not None:
        return load_learner(learner.build, learner.parameters, settings.folder, task=settings.task)
    if learner.use is None:
        raise AssertionError("the settings were loaded with neither use nor build")
    return build_learner(learner.use, settings.task, learner.parameters, learner.seed)


def label_policy(settings: Settings) -> LabelPolicy:
    """How long predictions and labels wait for each other, and what becomes of those that do so in vain."""
    labels = settings.labels
    silence = None if labels.silence is None else new_decoder(settings).label(labels.silence)
    return LabelPolicy(
        expire_after_seconds=labels.expire_after_seconds,
        capacity=labels.capacity,
        silence=silence,
        early_seconds=labels.early_seconds,
        remember=labels.remember,
        conflict=labels.conflict,
    )


def new_pipeline(settings: Settings, estimator: base.Estimator | None = None) -> Pipeline:
    """The empty pipeline of one partition.

    Args:
        settings: The pipeline's settings.
        estimator: Learns instead of the one that the settings describe; for backtests.
    """
    state = State(
        learner=Learner(estimator if estimator is not None else new_estimator(settings), settings.task),
        prequential=Prequential(settings.metrics.use, settings.task, settings.metrics.window),
        drift=DriftMonitor(
            [DriftWatch(item.watch, item.detector, item.parameters) for item in settings.drift],
            settings.task,
            settings.learner.seed,
        ),
        labels=LabelBook(label_policy(settings)),
        recent=RecentIds(window=settings.event.id_window),
    )
    return Pipeline(
        name=settings.name,
        topic=settings.topics.events,
        decoder=new_decoder(settings),
        state=state,
        duplicates=settings.event.duplicates,
        outcomes=settings.topics.outcomes is not None,
    )


def open_store(settings: Settings) -> SnapshotStore:
    """Where this pipeline's snapshots lie."""
    snapshots = settings.snapshots
    if snapshots.is_remote:
        from stream.snapshots.objects import ObjectStore  # noqa: PLC0415 - an extra, and slow to import

        return ObjectStore(f"{snapshots.location.rstrip('/')}/{settings.name}", snapshots.options)
    return LocalDirectory(snapshot_folder(settings) / settings.name)


def snapshot_folder(settings: Settings) -> Path:
    """The directory of the snapshots of all pipelines, where they lie on this machine."""
    return settings.folder / Path(settings.snapshots.location.removeprefix("file://")).expanduser()


def open_keeper(
    settings: Settings, start: Callable[[Callable[[], None]], None] = in_background
) -> SnapshotKeeper:
    """The snapshots of this pipeline.

    Args:
        settings: Say where they are and what seals them.
        start: Runs the slow half of taking one.

    Raises:
        EnvironmentRefused: The key can't be read or made; a package for the address is missing.
    """
    snapshots = settings.snapshots
    if snapshots.key is not None:
        key = snapshots.key.get_secret_value().encode()
    else:
        key = local_key(snapshot_folder(settings))
    return SnapshotKeeper(
        open_store(settings),
        key,
        SnapshotPolicy(
            interval_seconds=snapshots.interval_seconds,
            interval_events=snapshots.interval_events,
            keep=snapshots.keep,
            max_bytes=snapshots.max_bytes,
        ),
        trusted=trusted_modules(settings),
        version=version("headrace"),
        start=start,
        with_copies=HAS_COPIES,
    )


def trusted_modules(settings: Settings) -> tuple[str, ...]:
    """Modules beside ours and River's whose classes a snapshot may hold: the learner's, and those of the settings."""
    own = settings.learner.build
    return *settings.snapshots.trusted_modules, *([own.partition(":")[0].partition(".")[0]] if own else [])


def worker_policy(settings: Settings, *, stop_at_end: bool) -> WorkerPolicy:
    """What the worker needs to know of the settings."""
    return WorkerPolicy(
        pipeline=settings.name,
        topic=settings.topics.events,
        start=settings.topics.start,
        shape=state_shape(settings),
        commit_interval_seconds=settings.worker.commit_interval_ms / 1_000,
        status_interval_seconds=settings.worker.status_interval_seconds,
        dead_letter_budget=DeadLetterBudget(
            most=settings.worker.dead_letter_budget, window_seconds=settings.worker.dead_letter_window_seconds
        ),
        stop_at_end=stop_at_end,
    )


def start_health(settings: Settings, slot: WriterSlot, board: HealthBoard) -> HealthServer | None:
    """The health endpoint of this worker; None if it is turned off, or if the default port is taken.

    Raises:
        EnvironmentRefused: It can't listen where the settings want it.
    """
    health = settings.health
    if health.port == 0:
        return None
    try:
        server = HealthServer(board, health.host, health.port + slot.slot)
    except EnvironmentRefused as error:
        if health.model_fields_set:
            raise
        log.warning("no health endpoint", reason=str(error))
        return None
    log.info("health endpoint", host=health.host, port=server.port, paths=["/healthz", "/readyz", "/metrics"])
    return server


def health_policy(settings: Settings) -> HealthPolicy:
    """How long a worker may be silent; commits that are far apart on purpose are no silence."""
    return HealthPolicy(
        topic=settings.topics.events, progress_seconds=60.0 + settings.worker.commit_interval_ms / 1_000
    )


def run_worker(settings: Settings, *, stop_at_end: bool, should_stop: Callable[[], bool]) -> None:
    """Run one worker of a pipeline until it is told to stop, or with `stop_at_end` to the ends seen at the start.

    Raises:
        HeadraceError: See `stream.errors`; `exit_code` says which.
    """
    # librdkafka and prometheus_client take a moment to load, and only this needs them
    from monitors.telemetry import Telemetry  # noqa: PLC0415
    from stream.kafka.log import KafkaLog  # noqa: PLC0415
    from stream.worker import Worker  # noqa: PLC0415

    slot = WriterSlot(settings)
    telemetry = Telemetry(
        pipeline=settings.name,
        topic=settings.topics.events,
        worker=slot.writer,
        version=version("headrace"),
    )
    board = HealthBoard(
        pipeline=settings.name,
        worker=slot.writer,
        policy=health_policy(settings),
        metrics=telemetry.exposition,
    )
    server: HealthServer | None = None
    try:
        server = start_health(settings, slot, board)
        worker = Worker(
            KafkaLog(settings, slot.writer),
            worker_policy(settings, stop_at_end=stop_at_end),
            lambda: new_pipeline(settings),
            open_keeper(settings) if settings.snapshots.enabled else None,
            should_stop=should_stop,
            report=None if server is None else board.report,
            tell=None if server is None else telemetry.update,
        )
        spare_the_collector()
        worker.run()
    finally:
        if server is not None:
            server.close()
        slot.release()
