"""`headrace monitor`: puts the readers, the watchdogs, the notifications and the web server together, and runs them."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, NoReturn

import structlog
import uvicorn
from fastapi import FastAPI

from monitors.app.api import add_api
from monitors.app.config import RECONNECT_SECONDS, MonitorConfig
from monitors.app.feed import PipelineReader
from monitors.app.relay import RelayReader
from monitors.app.site import DeadLetter, Feed, Site
from monitors.app.telling import Teller
from monitors.app.web import Guard
from monitors.app.wire import BoundedHttp
from monitors.fleet import Fleet, Watchdog, Watchdogs, views
from monitors.notify import Notifier
from monitors.telemetry import (
    ChannelReadings,
    Distribution,
    Family,
    MonitorReadings,
    MonitorTelemetry,
    PipelineReadings,
    RelayReadings,
)

log = structlog.get_logger()

#: Seconds that open connections of browsers get to end.
SHUTDOWN_SECONDS = 3
#: Seconds after a signal within which it ends, whatever still waits for a broker.
LONGEST_END_SECONDS = 12


class Monitor:
    """The control plane of one or several pipelines.

    Args:
        config: What it is told.
        say: Tells the operator a line, such as the dashboard's address.
    """

    def __init__(self, config: MonitorConfig, *, say: Callable[[str], None] = lambda line: None) -> None:
        self._config = config
        self._say = say
        self.fleet = Fleet([pipeline.facts for pipeline in config.pipelines])
        feeds = {pipeline.facts.name: Feed() for pipeline in config.pipelines}
        self.notifiers: dict[str, Notifier] = {}
        self.readers: dict[str, PipelineReader] = {}
        self.relay_readers: list[RelayReader] = []
        for pipeline in config.pipelines:
            name = pipeline.facts.name
            state = self.fleet.pipelines[name]
            teller = None
            if pipeline.channels:
                self.notifiers[name] = Notifier(pipeline.channels)
                teller = Teller(state, self.notifiers[name])
            self.readers[name] = PipelineReader(
                pipeline, state, feeds[name], watchdogs=Watchdogs(pipeline.bounds), teller=teller
            )
            if pipeline.facts.relayed_topics:
                self.relay_readers.append(RelayReader(pipeline, state))
        self._telemetry = MonitorTelemetry(version=config.version)
        self._began_at = time.time()
        self._loop_delay = Distribution(Family.MONITOR_LOOP_DELAY.value.buckets)
        #: When it has ended at the latest, once it is to end; seconds of `time.monotonic`.
        self.ends_at = float("inf")
        self.site = Site(
            fleet=self.fleet, feeds=feeds, dead_letters=self._dead_letters, channels=self._channels
        )

    async def _dead_letters(self, pipeline: str, most: int) -> Sequence[DeadLetter]:
        return await self.readers[pipeline].dead_letters(most)

    def _channels(self) -> list[dict[str, Any]]:
        return [
            {"pipeline": name, **asdict(facts)}
            for name, notifier in self.notifiers.items()
            for facts in notifier.facts()
        ]

    def _exposition(self, accept: str) -> tuple[str, bytes]:
        """The text for Prometheus, of this moment."""
        self._telemetry.update(
            MonitorReadings(
                began_at=self._began_at,
                loop_delay=self._loop_delay.reading(),
                viewers=self.site.viewers,
                pipelines=[self._readings(name) for name in self.readers],
            )
        )
        return self._telemetry.exposition(accept)

    def _readings(self, name: str) -> PipelineReadings:
        state, feed = self.fleet.pipelines[name], self.site.feeds[name]
        now, relay = self.site.clock(), state.relay
        summary = views.summary(state, now)
        return PipelineReadings(
            pipeline=name,
            is_connected=feed.state in ("loading", "live"),
            is_history_loaded=feed.loaded >= 1.0,
            restarts=feed.restarts,
            records={str(kind): count for kind, count in self.readers[name].records.items()},
            unreadable=state.unreadable,
            status_arrived_at=max((item.arrived_at for item in state.partitions.values()), default=None),
            partitions=summary["partitions"],
            workers=summary["workers"],
            lag_records=summary["lag_records"],
            metric=summary["metric"],
            quality=summary["quality"],
            baselines=summary["baselines"],
            open_incidents=summary["open"],
            relay=None if relay is None else RelayReadings(read_at=relay.read_at, topics=relay.by_topic(now)),
            channels=[
                ChannelReadings(
                    channel=facts.name, sent=facts.sent, failed=facts.failed, waiting=facts.waiting
                )
                for facts in (self.notifiers[name].facts() if name in self.notifiers else ())
            ],
            watchdog_openings={
                dog.value.name: self.readers[name].openings[dog.value.name] for dog in Watchdog
            },
            drift_alerts={kind: state.counts[kind] for kind in ("drift", "warning")},
        )

    def _viewers(self, more: int) -> None:
        self.site.viewers = max(0, self.site.viewers + more)

    async def _measure_loop(self) -> None:
        """How late the loop comes round, about once a second."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + 1.0
            await asyncio.sleep(1.0)
            self._loop_delay.observe(max(0.0, loop.time() - due))

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT.

        Raises:
            OSError: The address can't be listened at.
        """
        config = self._config
        listening = listen(config.host, config.port)
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopped.set)
        server = _Server(
            uvicorn.Config(
                self._web(),
                log_config=None,
                access_log=False,
                server_header=False,
                date_header=False,
                proxy_headers=False,
                http=BoundedHttp,
                timeout_graceful_shutdown=SHUTDOWN_SECONDS,
                ws_max_size=1_000_000,
            )
        )
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        readers: list[PipelineReader | RelayReader] = [*self.readers.values(), *self.relay_readers]
        reading = [asyncio.create_task(reader.run()) for reader in readers]
        reading.append(asyncio.create_task(self._measure_loop()))
        telling = [asyncio.create_task(notifier.run()) for notifier in self.notifiers.values()]
        host, port = listening.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        self._say(f"Dashboard: http://{shown}:{port}/")
        waiting = asyncio.create_task(stopped.wait())
        try:
            parts = [serving, waiting, *reading, *telling]
            await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        finally:
            self.ends_at = time.monotonic() + LONGEST_END_SECONDS
            waiting.cancel()
            server.should_exit = True
            for notifier in self.notifiers.values():
                notifier.stop()
            told = await asyncio.gather(*telling, return_exceptions=True)
            for task in reading:  # after them: it keeps how far they came
                task.cancel()
            others = [serving, *reading]
            stuck = (await asyncio.wait(others, timeout=max(0.0, self.ends_at - time.monotonic())))[1]
            listening.close()
            if stuck:  # a client that waits for a broker, and takes no notice of being cancelled
                _leave(0 if stopped.is_set() else 1)
            ended = [*told, *await asyncio.gather(*others, return_exceptions=True)]
        if not stopped.is_set():
            errors = [e for e in ended if isinstance(e, Exception)]
            raise RuntimeError("the web server, a reader or a notifier ended by itself") from (
                errors[0] if errors else None
            )

    def _web(self) -> Guard:
        from nicegui import app as pages  # noqa: PLC0415  # takes a second
        from nicegui import ui  # noqa: PLC0415

        from monitors.app.dashboard import build  # noqa: PLC0415

        app = FastAPI(
            title="Headrace monitor", docs_url=None, redoc_url=None, openapi_url="/api/openapi.json"
        )
        add_api(app, self.site, version=self._config.version, exposition=self._exposition)
        build(self.site)
        pages.on_connect(lambda: self._viewers(1))
        pages.on_disconnect(lambda: self._viewers(-1))
        ui.run_with(
            app,
            title="Headrace",
            dark=None,
            language="en-US",
            reconnect_timeout=RECONNECT_SECONDS,
            tailwind=False,
            show_welcome_message=False,
        )
        return Guard(app, self._config)


class _Server(uvicorn.Server):
    """Leaves the signals to whoever runs it."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens there; port 0: a free one.

    Raises:
        OSError: It can't be; the sentence says where.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listening = socket.socket(family, kind, protocol)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise OSError(error.errno, f"can't listen at {host}:{port} ({error.strerror})") from error
    return listening


def run_monitor(config: MonitorConfig, *, say: Callable[[str], None]) -> None:
    """Run a monitor until SIGTERM or SIGINT; see `Monitor.run` for what it raises."""
    for name in ("faust", "mode", "aiokafka", "uvicorn", "nicegui"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for name in ("aiokafka", "faust.transport"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a broker that is away is told once, by us
    running = Monitor(config, say=say)
    asyncio.run(running.run())
    if not _threads_end(min(SHUTDOWN_SECONDS, running.ends_at - time.monotonic())):
        # Faust's, for a broker that took a connection and does not answer: Python would wait for it, for minutes.
        _leave(0)


def _leave(code: int) -> NoReturn:
    """End at once. What notifiers have told is kept by now, and all else is read from the topics again."""
    log.warning("ended without waiting for a broker that does not answer")
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _threads_end(seconds: float) -> bool:
    """Whether all threads that Python waits for at its end have ended."""
    deadline = time.monotonic() + seconds
    others = [t for t in threading.enumerate() if not t.daemon and t is not threading.current_thread()]
    for thread in others:
        thread.join(max(0.0, deadline - time.monotonic()))
    return not any(thread.is_alive() for thread in others)
