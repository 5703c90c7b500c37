"""A monitor whose topics are made up: pipelines that fare well and badly, and one whose every name is hostile.

Run as a program it serves the dashboard: `python -m tests.browser.pretend PORT [NAME ...]`. It prints the address once
it listens; at SIGUSR1 a feature of the first pipeline drifts.
"""

from __future__ import annotations

import asyncio
import math
import random
import signal
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import orjson
import uvicorn
from fastapi import FastAPI
from nicegui import ui

from monitors import Alert, Incident, SnapshotFacts, Status, delay_histogram
from monitors.app.config import RECONNECT_SECONDS, MonitorConfig
from monitors.app.dashboard import build
from monitors.app.site import DeadLetter, Feed, Site, Unavailable
from monitors.app.web import Guard
from monitors.fleet import Fleet, PipelineFacts, PipelineState, Source, Standing
from tests.unit.monitors.fleet_cases import FACTS

#: What somebody could write into ids, labels, features and texts to run in a browser, or to mislead.
HOSTILE = (
    "<img src=x onerror=alert(1)>",
    "{{constructor.constructor('alert(1)')()}}",
    "<script>window.hacked = 1</script>",
    "pay\u202egpj.exe\u2066",
    "a\x00b\x07c\x1b[31m",
    "long" * 70,
    "' onmouseover='alert(1)",
    "${alert(1)} `alert(1)` &lt;b&gt;",
    "{b|bold} %{} :alert(1)",
)


class Maker:
    """Writes what workers would have written about one pipeline into a fleet.

    Args:
        fleet: Into which.
        facts: Of which pipeline.
        partitions: How many.
        seed: Of what goes up and down.
    """

    def __init__(self, fleet: Fleet, facts: PipelineFacts, partitions: int = 1, *, seed: int = 1) -> None:
        self.state = fleet.pipelines[facts.name]
        self.facts = facts
        self.partitions = partitions
        self.rng = random.Random(seed)
        self._offsets = {"status": 0, "alerts": 0}
        self.last_drift: dict[tuple[int, str], int] = {}
        self.drifts: dict[tuple[int, str], int] = {}

    def write(self, kind: Any, partition: int, noun: Status | Alert | Incident, at: float) -> None:
        """Put a record on a topic."""
        offset = self._offsets[kind]
        self._offsets[kind] += 1
        value = orjson.dumps(noun.to_dict())
        applied = self.state.apply(kind, partition, offset, value, seen_at=at)
        assert applied != "unreadable", self.state.last_unreadable

    def history(self, now: float, seconds: float, every: float, *, drift_every: float = 900.0) -> None:
        """Statuses and alerts of the last so many seconds."""
        moments = int(seconds / every)
        for moment in range(moments + 1):
            at = now - seconds + moment * every
            for partition in range(self.partitions):
                self.status(partition, at, at - (now - seconds), drift_every=drift_every)
                into = (at - (now - seconds) + 97.0 * partition) % drift_every
                if moment and into < every:
                    self.drift(partition, at, "error")
                elif moment and partition == 0 and every * 4 <= into < every * 5:
                    self.warning(partition, at)

    def long_history(self, now: float, seconds: float, every: float) -> None:
        """The same over many partitions, by a short cut: the figures of a status in between are its first one's."""
        moments = int(seconds / every)
        for partition in range(self.partitions):
            self.status(partition, now - seconds, 0.0, drift_every=900.0)
            item = self.state.partitions[partition]
            names = dict.fromkeys(item.series.columns, 0.5)
            for moment in range(1, moments):
                at = now - seconds + moment * every
                quality, error = self.figures(partition, moment * every, 900.0)
                names |= {
                    "accuracy window": quality,
                    "watch error adwin": error,
                    "rate": 180.0 + 20 * quality,
                }
                names |= {
                    "offset": 200.0 * moment * every,
                    "scored": 192.0 * moment * every,
                    "lag_records": 9.0,
                }
                item.series.add(at, names)
                if (moment * every + 97.0 * partition) % 900.0 < every:
                    self.drift(partition, at, "error", offset=int(200 * moment * every))
            self.status(partition, now, seconds, drift_every=900.0)

    def figures(self, partition: int, at: float, drift_every: float) -> tuple[float, float]:
        """Quality and the error now: falls at each drift, and comes back."""
        into = (at + 97.0 * partition) % drift_every
        noise = 0.012 * math.sin(at / 37.0) + self.rng.gauss(0.0, 0.006)
        quality = 0.93 - 0.34 * math.exp(-into / (drift_every / 9)) + noise
        return min(0.995, max(0.4, quality)), max(0.0, 1 - quality)

    def status(self, partition: int, at: float, since: float, *, drift_every: float, **changes: Any) -> None:
        """One status of a partition."""
        rate = 180.0 + 25.0 * math.sin(at / 400.0) + self.rng.gauss(0.0, 6.0)
        events = int(200 * since) + 1
        quality, error = self.figures(partition, since, drift_every)
        shift = 0.2 * math.sin(since / 500.0)
        first = self.facts.metrics[0]
        regression = self.facts.task == "regression"
        value = {"value": 0.86 + 0.02 * math.sin(since / 2_000.0), "window": quality}
        if regression:
            value = {"value": 3.1, "window": 10 * error + 1.2}
        metrics: dict[str, Any] = {first: value}
        for name in self.facts.metrics[1:]:
            metrics[name] = {"value": 0.9, "window": min(1.0, quality + 0.04)}
        baselines: dict[str, Any] = {
            "no_change": {"value": 0.52, "window": 0.5 + 0.02 * math.sin(since / 90.0)},
            "majority": {"value": 0.6, "window": 0.61},
        }
        if regression:
            baselines = {"no_change": {"value": 5.0, "window": 4.8}, "mean": {"value": 6.1, "window": 6.0}}
        drift = [
            self.watch(partition, watch, detector, observed=events, error=error, shift=shift)
            for watch, detector in self.facts.watches
        ]
        status = Status(
            pipeline=self.facts.name,
            partition=partition,
            worker=f"{self.facts.name}-host-{partition % 3}",
            offset=events,
            end=events + 12,
            lag_records=int(12 + 40 * max(0.0, math.sin(at / 200.0 + partition))),
            events=events,
            predictions=events,
            learned=int(events * 0.96),
            scored=int(events * 0.96),
            dead_letters=events // 900,
            pending=140 + int(30 * math.sin(at / 150.0)),
            expired=events // 60,
            expired_early=events // 400,
            expired_learned=0,
            late=events // 90,
            early=events // 50,
            early_waiting=3,
            unmatched=events // 700,
            duplicate_labels=events // 40,
            conflicting_labels=events // 800,
            corrected_labels=0,
            ignored=0,
            duplicates=0,
            non_finite=0,
            rate=rate,
            window=self.facts.window,
            metrics=metrics,
            baselines=baselines,
            drift=drift,
            questions=events // 2,
            joined=events // 2 - events // 60,
            label_health={},
            label_delay={"p50": 2.1 + math.sin(at / 300.0), "p95": 8.4, "count": 1000},
            label_delay_histogram=delay_histogram(self.rng.lognormvariate(0.7, 1.0) for _ in range(50)),
            dead_letters_by_stage={"decode": events // 1000, "learn": events // 9000},
            classes=None if regression else self.classes(),
            learner_seconds={"predict": 1.4e-5, "learn": 2.6e-5 + 4e-6 * math.sin(at / 90.0)},
            learner="StandardScaler | LogisticRegression",
            snapshot=SnapshotFacts(
                name=f"{partition}-{events}",
                offset=events - 400,
                time=at - 18.0,
                bytes=21_500 + int(since),
                pause_seconds=0.001,
                seconds=0.01,
            ),
            state="live",
            time=at,
        )
        self.write("status", partition, replace(status, **changes), at)

    def classes(self) -> dict[str, dict[str, int]]:
        """How often each class came."""
        if self.facts.task == "multiclass":
            names = ["walking", "sitting", "standing", "lying", "upstairs", "downstairs"]
            return {
                "predicted": {name: 300 - 40 * i for i, name in enumerate(names)},
                "label": {name: 280 - 36 * i for i, name in enumerate(names)},
            }
        return {"predicted": {"false": 612, "true": 388}, "label": {"false": 580, "true": 420}}

    def watch(
        self, partition: int, name: str, detector: str, *, observed: int, error: float, shift: float
    ) -> dict[str, Any]:
        """The state of one drift watch."""
        key = (partition, name)
        if name in ("error", "label", "prediction"):
            edges, now, before = [0.0, 0.5, 1.0], [int(100 * (1 - error)), int(100 * error)], [900, 100]
            mean_now, mean_before = error, 0.1
        else:
            edges = [-2.0 + 0.2 * i for i in range(21)]
            bell = [math.exp(-((edge + 0.1 - shift) ** 2)) for edge in edges[:-1]]
            old = [math.exp(-((edge + 0.1) ** 2) * 1.6) for edge in edges[:-1]]
            now, before = [int(400 * v) for v in bell], [int(900 * v) for v in old]
            mean_now, mean_before = shift, 0.01
        return {
            "watch": name,
            "detector": detector,
            "state": "stable",
            "observed": observed,
            "skipped": 3 if name.startswith("feature") else 0,
            "warnings": 1,
            "drifts": self.drifts.get(key, 0),
            "last_drift_at": self.last_drift.get(key),
            "mean_before": mean_before,
            "mean_now": mean_now,
            "distribution": {"edges": edges, "now": now, "before": before},
        }

    def drift(self, partition: int, at: float, watch: str, kind: Any = "drift", **changes: Any) -> None:
        """A detector speaks."""
        item = self.state.partitions.get(partition)
        offset = item.status.offset if item else 0
        if kind == "drift":
            self.last_drift[partition, watch] = offset
            self.drifts[partition, watch] = self.drifts.get((partition, watch), 0) + 1
        alert = Alert(
            kind=kind,
            pipeline=self.facts.name,
            watch=watch,
            detector="adwin",
            partition=partition,
            offset=offset,
            time=at,
            mean_before=0.08,
            mean_after=0.41,
            observed=offset,
        )
        self.write("alerts", partition, replace(alert, **changes), at)

    def warning(self, partition: int, at: float) -> None:
        """A detector warns."""
        self.drift(partition, at, "error", "warning", detector="ddm", mean_after=0.17)

    def incident(self, at: float, **changes: Any) -> None:
        """Something happened to a worker."""
        incident = Incident(
            pipeline=self.facts.name,
            partition=0,
            offset=700,
            incident="snapshot-failed",
            state="open",
            severity="warning",
            text=(
                "partition 0: the snapshot at offset 700 could not be written to snapshots/ (no space left on the "
                "device). Make room, or set [snapshots] location; the worker goes on and tries again in 60 s."
            ),
            worker=f"{self.facts.name}-host-0",
            time=at,
        )
        self.write("alerts", incident.partition or 0, replace(incident, **changes), at)


def facts(name: str, **changes: Any) -> PipelineFacts:
    """What the settings of a pipeline say."""
    topics = {
        f"{kind}_topic": f"{name}.{kind.replace('_', '-')}" for kind in ("alerts", "status", "dead_letters")
    }
    made: dict[str, Any] = {"name": name, "settings_file": f"{name}.toml", **topics, **changes}
    return replace(FACTS, **made)


PIPELINES = {
    "fraud": facts(
        "fraud", watches=(("error", "adwin"), ("feature:amount", "page-hinkley"), ("feature:age", "kswin"))
    ),
    "activity": facts(
        "activity",
        task="multiclass",
        events_topic="sensors",
        metrics=("accuracy", "macro_f1", "cross_entropy"),
        learner="amf-classifier",
        parameters={"n_estimators": 10, "step": 1.0, "use_aggregation": True},
        watches=(("error", "adwin"),),
        relay_group="activity.relay",
        relayed_topics=("activity-labels",),
    ),
    "demand": facts(
        "demand",
        task="regression",
        events_topic="orders",
        metrics=("mae", "rmse", "r2"),
        learner="hoeffding-tree-regressor",
        parameters={},
        watches=(("error", "page-hinkley"), ("feature:price", "adwin")),
    ),
    "wide": facts("wide", events_topic="clicks", watches=(("error", "adwin"), ("feature:amount", "adwin"))),
    "hostile": facts(
        "hostile",
        events_topic="odd",
        watches=tuple((f"feature:{text}", "adwin") for text in HOSTILE),
        parameters={HOSTILE[0]: HOSTILE[1]},
        learner=HOSTILE[0],
        relay_group="hostile.relay",
        relayed_topics=(HOSTILE[0],),
    ),
    "empty": facts("empty", events_topic="nothing"),
    "silent": facts("silent", events_topic="night", watches=()),
    "away": facts("away", events_topic="elsewhere"),
}


#: Partitions of the widest that have the same incident.
SHARED = (3, 4, 5, 9)


def pretend_site(now: float, names: Sequence[str] = (), *, wide: int = 50, points: int = 2_000) -> Site:
    """Pipelines of every kind, with their history.

    Args:
        now: Epoch seconds; history ends there.
        names: Which of `PIPELINES`; none: all.
        wide: Partitions of the widest.
        points: Statuses of each of its partitions.
    """
    chosen = [PIPELINES[name] for name in names or PIPELINES]
    fleet = Fleet(chosen)
    feeds = {item.name: Feed(state="live", loaded=1.0, since=now) for item in chosen}
    makers: dict[str, Maker] = {}
    for item in chosen:
        partitions = {"wide": wide, "activity": 4, "demand": 2}.get(item.name, 1)
        maker = makers[item.name] = Maker(fleet, item, partitions, seed=len(makers))
        if item.name == "wide":
            maker.long_history(now, 5.0 * points, 5.0)
        elif item.name == "silent":
            maker.history(now - 400.0, 3_600.0, 20.0)
        elif item.name not in ("empty", "away"):
            maker.history(now, 7_200.0, 10.0, drift_every=1_300.0)
    if "demand" in makers:
        makers["demand"].incident(
            now - 200.0,
            severity="critical",
            incident="dead-letter-budget",
            partition=1,
            text=(
                "partition 1: 120 of the last 1,000 records went to the dead-letter topic, more than the budget of "
                "100; the worker stopped at orders[1]@48211. Look at headrace dead-letters list demand.toml."
            ),
        )
    if "activity" in makers:
        makers["activity"].incident(now - 900.0)
        for moment in range(61):
            relay(fleet.pipelines["activity"], now - 600.0 + 10.0 * moment, moment)
    if "wide" in makers and wide > SHARED[-1]:
        for partition in SHARED:
            text = f"{100 + partition} of 400 labels within 10 min found no question."
            makers["wide"].incident(
                now - 300.0 - partition, partition=partition, incident="labels-unmatched", text=text
            )
    if "hostile" in makers:
        _write_hostile(makers["hostile"], now)
        fleet.pipelines["hostile"].take_relay(HOSTILE[1], now)
    if "away" in feeds:
        feeds["away"].state = "away"
        feeds[
            "away"
        ].problem = "127.0.0.1:9092 does not answer (Connection refused): start it with `headrace broker`."
        makers["away"].history(now - 90.0, 1_800.0, 10.0)

    async def dead_letters(pipeline: str, most: int) -> Sequence[DeadLetter]:
        if pipeline == "away":
            raise Unavailable("127.0.0.1:9092 does not answer: start it with `headrace broker`.")
        texts = HOSTILE if pipeline == "hostile" else ('{"amount": "n/a", "country": "DE"}', "not JSON")
        return [
            DeadLetter(
                position=f"{fleet.pipelines[pipeline].facts.events_topic}[0]@{1_042 + number}",
                stage=text[:30] if pipeline == "hostile" else "decode",
                error="RecordError",
                message=text if pipeline == "hostile" else 'field "amount" is "n/a"; expected a number',
                key=text,
                value=text * 3,
                bytes=3 * len(text) + 100_000 * (number % 2),
                time=now - 60.0 * number,
            )
            for number, text in enumerate(texts)
        ][:most]

    channels = [
        {"pipeline": "fraud", "name": "on-call", "scheme": "slack", "sent": 14, "failed": 0, "waiting": 0}
        | {"open": 0, "last_error": None, "last_sent": now - 700.0},
        {"pipeline": "fraud", "name": HOSTILE[0], "scheme": "mailto", "sent": 3, "failed": 9, "waiting": 2}
        | {
            "open": 1,
            "last_error": "smtp.example.org does not answer (timed out)",
            "last_sent": now - 86_400.0,
        },
    ]
    return Site(fleet=fleet, feeds=feeds, dead_letters=dead_letters, channels=lambda: channels)


def relay(pipeline: PipelineState, now: float, moment: int) -> None:
    """A look at where the relay stands: the first partition stands still, the second is behind, others are well."""
    end = 40_000 + 60 * moment
    offsets = {0: 40_120, 1: end - 700, 2: end, 3: end}
    topic = pipeline.facts.relayed_topics[0]
    pipeline.take_relay({Source(topic, p): Standing(offset, 0, end) for p, offset in offsets.items()}, now)


def _write_hostile(maker: Maker, now: float) -> None:
    for number, text in enumerate(HOSTILE):
        maker.drift(0, now - 60.0 * number, f"feature:{text}", detector=text[:60])
        maker.incident(
            now - 30.0 * number,
            severity=("critical", "warning", "info")[number % 3],
            incident=text[:200],
            text=f"{text} {text}",
            worker=text,
        )
    last = maker.state.partitions[0].status
    names = {text: 10 + number for number, text in enumerate(HOSTILE)}
    maker.write(
        "status",
        0,
        replace(
            last,
            worker=HOSTILE[0],
            learner=HOSTILE[1],
            classes={"predicted": names, "label": names},
            dead_letters_by_stage=names,
            dead_letters=sum(names.values()),
            time=now,
        ),
        now,
    )


async def serve(port: int, names: Sequence[str], token: str | None) -> None:
    """Serve the dashboard until killed; partitions get a status every five seconds."""
    now = time.time()
    site = pretend_site(now, names)
    app = FastAPI()
    build(site)
    ui.run_with(
        app,
        title="Headrace",
        dark=None,
        language="en-US",
        reconnect_timeout=RECONNECT_SECONDS,
        tailwind=False,
        show_welcome_message=False,
    )
    guarded = Guard(app, MonitorConfig(pipelines=[], token=token))
    listening = socket.create_server(("127.0.0.1", port))
    server = uvicorn.Server(uvicorn.Config(guarded, log_config=None, access_log=False))
    serving = asyncio.create_task(server.serve(sockets=[listening]))
    sys.stdout.write(f"http://127.0.0.1:{listening.getsockname()[1]}/\n")
    sys.stdout.flush()
    makers = {
        name: Maker(site.fleet, state.facts, len(state.partitions), seed=7)
        for name, state in site.fleet.pipelines.items()
        if name not in ("empty", "silent", "away", "hostile")
    }
    for maker in makers.values():
        maker._offsets = {"status": 10**9, "alerts": 10**9}

    def drift() -> None:
        maker = next(iter(makers.values()))
        maker.drift(
            0, time.time(), "feature:amount", detector="page-hinkley", mean_before=12.0, mean_after=57.25
        )

    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, drift)
    moment = 60
    while not serving.done():
        await asyncio.sleep(1.0)
        if "activity" in site.fleet.pipelines and int(time.time()) % 5 == 0:
            moment += 1
            relay(site.fleet.pipelines["activity"], time.time(), moment)
        for maker in makers.values():
            for partition in range(maker.partitions):
                if (int(time.time()) + partition) % 5 == 0:
                    maker.status(partition, time.time(), time.time() - now + 7_200.0, drift_every=1_300.0)


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), sys.argv[2:], None))
