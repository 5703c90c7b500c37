"""From settings to the objects that run: the wiring, top to bottom."""

from __future__ import annotations

import fcntl
import gc
import os
import socket
import sys
import tempfile
from collections.abc import Callable
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import IO, Final

import structlog
from river import base

from learners.learner import Learner
from learners.registry import build_learner, load_learner
from monitors import DriftMonitor, DriftWatch, Prequential
from stream.budget import DeadLetterBudget
from stream.codec import EventDecoder, LabelDecoder
from stream.errors import ConfigError, EnvironmentRefused, Mistake
from stream.health import HealthBoard, HealthPolicy, HealthServer
from stream.labels import LabelBook, LabelPolicy, RecentIds
from stream.pipeline import Pipeline, State
from stream.relay.places import Lost
from stream.settings import AllBut, Settings
from stream.snapshots.keeper import SnapshotKeeper, SnapshotPolicy, in_background
from stream.snapshots.key import local_key
from stream.snapshots.pickling import HAS_COPIES
from stream.snapshots.store import LocalDirectory, SnapshotStore
from stream.worker import WorkerPolicy

log = structlog.get_logger()

#: Allocations before the cyclic garbage collector looks; Python's own 700 is for programs that make cycles.
GC_THRESHOLDS: Final = (50_000, 20, 100)


def new_estimator(settings: Settings) -> base.Estimator:
    """A fresh River estimator as the settings describe it."""
    learner = settings.learner
    if learner.build is not None:
        return load_learner(learner.build, learner.parameters, settings.folder, task=settings.task)
    if learner.use is None:
        raise AssertionError("the settings were loaded with neither use nor build")
    return build_learner(learner.use, settings.task, learner.parameters, learner.seed)


def new_decoder(settings: Settings) -> EventDecoder:
    """What reads events as the settings say where things are in them."""
    event = settings.event
    features = event.features
    return EventDecoder(
        task=settings.task,
        id_field=event.id,
        time_field=event.time,
        label_field=event.label,
        features=None
        if isinstance(features, AllBut)
        else features
        if isinstance(features, str)
        else list(features),
        excluded=features.except_ if isinstance(features, AllBut) else (),
        positive=event.positive,
        max_ahead_seconds=event.max_ahead_seconds,
        pipeline=settings.name,
        labels=new_label_decoder(settings),
    )


def new_label_decoder(settings: Settings) -> LabelDecoder:
    """What reads what comes from a labels topic; a field that is not named is where it is in an event."""
    event, labels = settings.event, settings.labels
    return LabelDecoder(
        task=settings.task,
        id_field=labels.id or event.id,
        time_field=labels.time or event.time,
        label_field=labels.label or event.label,
        positive=event.positive if labels.positive is None else labels.positive,
        max_ahead_seconds=event.max_ahead_seconds,
    )


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


def state_shape(settings: Settings) -> dict[str, str]:
    """All that shapes the state beside the log: digests of settings by name, and the versions of River and Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {**settings.shape(), "river": version("river"), "python": python}


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


class WriterSlot:
    """This process's transactional id: `{pipeline}-{instance}-{slot}`, the lowest slot that is free on this machine.

    The slot is a file lock, which ends with the process: a restart takes its own slot again, and two workers
    started by hand never share one. A relay's is `{pipeline}.relay-{instance}-{slot}`, with slots of its own.
    """

    def __init__(self, settings: Settings, kind: str = "") -> None:
        name = f"{settings.name}.{kind}" if kind else settings.name
        instance = settings.worker.instance or socket.gethostname()
        cluster = sha256(settings.kafka.bootstrap_servers.encode()).hexdigest()[:8]
        slot = 0
        try:
            folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            while True:
                self._lock: IO[str] = (folder / f"{name}-{cluster}-{instance}-{slot}.lock").open("a")
                try:
                    fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    self._lock.close()
                    slot += 1
        except OSError as error:  # none is there, or it is full, read-only, or another user's
            raise EnvironmentRefused(
                "no lock file can be made by which the workers of this machine tell who is who "
                f"({error.strerror or error}{f': {error.filename}' if error.filename else ''}). Let this user write to "
                "the directory for temporary files, or name another one in TMPDIR, the same for each worker."
            ) from error
        #: 0 for the first worker of the pipeline on this machine, and so on.
        self.slot = slot
        self.writer = f"{name}-{instance}-{slot}"

    def release(self) -> None:
        """Let another process have the slot."""
        self._lock.close()


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


def spare_the_collector() -> None:
    """Let the cyclic garbage collector look seldom, and never at what was there before the first record.

    Outputs are kept until they are committed. By default the collector looks at all of them, and at all that was
    imported, again and again for nothing: no cycle is among them. That was a tenth of the CPU of an event.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


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


def run_relay(
    settings: Settings, *, stop_at_end: bool, lost: Lost | None, should_stop: Callable[[], bool]
) -> None:
    """Run one relay of a pipeline until it is told to stop, or with `stop_at_end` to the ends seen at the start.

    Raises:
        ConfigError: The settings name nothing to relay.
        HeadraceError: See `stream.errors`; `exit_code` says which.
    """
    from stream.kafka.relay import KafkaRelay  # noqa: PLC0415 - as in `run_worker`
    from stream.relay.relay import Relay  # noqa: PLC0415

    if not settings.relayed_topics:
        text = "and [relay] events are both missing; expected a topic that is to be relayed."
        raise ConfigError([Mistake(place=str(settings.path), setting="[labels] topic", text=text)])
    slot = WriterSlot(settings, "relay")
    try:
        relay = Relay(
            KafkaRelay(settings, slot.writer),
            settings,
            stop_at_end=stop_at_end,
            lost=lost,
            should_stop=should_stop,
        )
        spare_the_collector()
        relay.run()
    finally:
        slot.release()
