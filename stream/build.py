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

from river import base

from learners.learner import Learner
from learners.registry import build_learner, load_learner
from monitors import DriftMonitor, DriftWatch, Prequential
from stream.codec import EventDecoder
from stream.pending import PendingPredictions
from stream.pipeline import Pipeline, State
from stream.settings import AllBut, Settings
from stream.worker import WorkerPolicy

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
        pending=PendingPredictions(
            expire_after_seconds=settings.labels.expire_after_seconds, capacity=settings.labels.capacity
        ),
    )
    return Pipeline(
        name=settings.name,
        topic=settings.topics.events,
        decoder=new_decoder(settings),
        state=state,
        outcomes=settings.topics.outcomes is not None,
    )


def state_shape(settings: Settings) -> dict[str, str]:
    """All that shapes the state beside the log: digests of settings by name, and the versions of River and Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {**settings.shape(), "river": version("river"), "python": python}


def worker_policy(settings: Settings, *, stop_at_end: bool) -> WorkerPolicy:
    """What the worker needs to know of the settings."""
    return WorkerPolicy(
        pipeline=settings.name,
        topic=settings.topics.events,
        start=settings.topics.start,
        shape=state_shape(settings),
        commit_interval_seconds=settings.worker.commit_interval_ms / 1_000,
        status_interval_seconds=settings.worker.status_interval_seconds,
        stop_at_end=stop_at_end,
    )


class WriterSlot:
    """This process's transactional id: `{pipeline}-{instance}-{slot}`, the lowest slot that is free on this machine.

    The slot is a file lock, which ends with the process: a restart takes its own slot again, and two workers
    started by hand never share one.
    """

    def __init__(self, settings: Settings) -> None:
        instance = settings.worker.instance or socket.gethostname()
        cluster = sha256(settings.kafka.bootstrap_servers.encode()).hexdigest()[:8]
        folder = Path(tempfile.gettempdir()) / f"headrace-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        slot = 0
        while True:
            self._lock: IO[str] = (folder / f"{settings.name}-{cluster}-{instance}-{slot}.lock").open("a")
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                self._lock.close()
                slot += 1
        self.writer = f"{settings.name}-{instance}-{slot}"

    def release(self) -> None:
        """Let another process have the slot."""
        self._lock.close()


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
    # librdkafka takes a moment to load, and only this needs it
    from stream.kafka_log import KafkaLog  # noqa: PLC0415
    from stream.worker import Worker  # noqa: PLC0415

    slot = WriterSlot(settings)
    try:
        worker = Worker(
            KafkaLog(settings, slot.writer),
            worker_policy(settings, stop_at_end=stop_at_end),
            lambda: new_pipeline(settings),
            should_stop=should_stop,
        )
        spare_the_collector()
        worker.run()
    finally:
        slot.release()
