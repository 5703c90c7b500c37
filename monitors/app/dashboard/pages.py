"""The pages: what is where, and how it follows the fleet. What is shown is decided in `frame`, `charts`, `panels`."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast
from urllib.parse import parse_qsl

import structlog
from fastapi import Request
from nicegui import ui
from nicegui.element import Element

from monitors.app.dashboard import charts, frame, panels
from monitors.app.dashboard.charts import Remembered, Zoom
from monitors.app.dashboard.parts import (
    Banner,
    Chart,
    Controls,
    Facts,
    Head,
    Notice,
    Overview,
    Table,
    Tabs,
    Top,
    Watches,
)
from monitors.app.dashboard.view import KINDS, RANGES, SEVERITIES, TABS, View
from monitors.app.dashboard.words import many, plain
from monitors.app.site import DeadLetter, Site, Unavailable
from monitors.fleet import PipelineState

log = structlog.get_logger()

#: A page looks for news this often, seconds.
REFRESH_SECONDS: Final = 1.0
#: Rows of the alert list; a press on a button shows so many more.
ALERT_ROWS: Final = 100
#: Dead letters that are shown, and how long they are not asked for again, seconds.
DEAD_LETTERS: Final = 25
DEAD_LETTERS_SECONDS: Final = 10.0

STYLE: Final = (Path(__file__).parent / "dashboard.css").read_text(encoding="utf-8")


class Page:
    """What all pages have: the bar on top, what is wrong, and a beat by which they follow the fleet.

    Args:
        site: What is shown.
        remembered: What was made for other viewers.
        pipeline: Whose page it is; None: the overview.
    """

    def __init__(self, site: Site, remembered: Remembered, pipeline: str | None) -> None:
        self.site = site
        self.remembered = remembered
        self.pipeline = pipeline
        self._seen: object = None
        #: Drifts that were counted at the last look, by pipeline.
        self._drifts: dict[str, int] | None = None
        ui.add_css(STYLE)
        client = ui.context.client
        with client.layout:
            self.top = Top()
            self.top.move(target_index=0)
        self.main = Element("div").classes("hr-main").props("id=main tabindex=-1")
        with self.main:
            self.banner = Banner()

    def begin(self) -> None:
        """Show what there is, and follow it."""
        self.refresh()
        ui.timer(REFRESH_SECONDS, self.refresh)

    def beat(self, now: float) -> object:
        """Changes whenever the page would look different, with the passing of time too."""
        site = self.site
        return (
            site.version,
            tuple(round(feed.loaded, 2) for feed in site.feeds.values()),
            tuple(frame.standing(p, site.feeds[name], now) for name, p in site.fleet.pipelines.items()),
            math.floor(now / charts.MOST_STEP),
            [dict(facts) for facts in site.channels()],
        )

    def refresh(self, *, forced: bool = False) -> None:
        """Show what changed since the last time; nothing if nothing did."""
        now = self.site.clock()
        beat = self.beat(now)
        if beat == self._seen and not forced:
            return
        self._seen = beat
        names = list(self.site.fleet.pipelines) if self.pipeline is None else [self.pipeline]
        names = [name for name in names if name in self.site.fleet.pipelines]
        self.top.show(
            now=now,
            path=[] if self.pipeline is None else [self.pipeline],
            live=frame.live(self.site, names, now) if names else None,
        )
        self.banner.show(items=frame.banners(self.site, now, page=self.pipeline), said=self._news(names))
        self.show(now)

    def show(self, now: float) -> None:
        """Show what only this page has."""

    def _news(self, names: Sequence[str]) -> str:
        """The newest drift, for those who hear the page instead of seeing it; "" before there is a new one."""
        before, self._drifts = self._drifts, frame.drifts_counted(self.site, names)
        if before is None:
            return ""
        return frame.news(self.site, before, self._drifts) or str(self.banner.props.get("said", ""))


class OverviewPage(Page):
    """All pipelines."""

    def __init__(self, site: Site, remembered: Remembered) -> None:
        super().__init__(site, remembered, None)
        with self.main:
            self.overview = Overview()
            self.channels = Table()
            self.channels.show(caption="Notifications", columns=frame.CHANNEL_COLUMNS)
        self.begin()

    def show(self, now: float) -> None:
        """Show the rows."""
        self.overview.show(**frame.overview(self.site, now, self.remembered))
        rows = frame.channel_rows(self.site)
        self.channels.show(rows=rows)
        self.channels.set_visibility(bool(rows))


class PipelinePage(Page):
    """One pipeline: its head, and what is behind the chosen tab."""

    def __init__(self, site: Site, remembered: Remembered, pipeline: PipelineState, view: View) -> None:
        super().__init__(site, remembered, pipeline.facts.name)
        self.state = pipeline
        self.view = view
        #: The same, with a time range.
        self.shown = view
        self.zoom: Zoom = None
        self.alert_rows = ALERT_ROWS
        self.letters: Sequence[DeadLetter] = ()
        self.letters_problem = ""
        self._letters_for: tuple[int, float] | None = None
        self._letters_task: asyncio.Task[None] | None = None
        #: How the panel is filled now; other parts are needed when this changes.
        self._laid: object = None
        self._fill: Callable[[float], None] = lambda now: None
        self.top.listen("back", self.go_back)
        with self.main:
            self.head = Head()
            self.tabs = Tabs()
            self.tabs.show(panel="panel")
            self.tabs.listen("choose", self.choose_tab)
            self.controls = Controls()
            self.controls.show(label="What is shown")
            self.controls.listen("choose", self.choose)
            self.panel = Element("div").classes("hr-panel").props("id=panel role=tabpanel tabindex=0")
        self.begin()

    # What the viewer chooses ---------------------------------------------------------------------------------------

    def choose_tab(self, name: object) -> None:
        """Another tab."""
        if name in TABS:
            self.change(tab=cast(str, name))

    def choose(self, chosen: object) -> None:
        """Another choice in one of the rows of choices; what makes no sense is left out."""
        if not isinstance(chosen, dict):
            return
        name, value = chosen.get("name"), chosen.get("value")
        if name == "range" and value in RANGES:
            self.zoom = None
            self.change(range=value)
        elif name == "metric" and value in self.state.facts.metrics:
            self.change(metric=value)
        elif name == "partition":
            self.choose_partition(int(value) if isinstance(value, str) and value.isdecimal() else None)
        elif name == "kinds" and isinstance(value, list):
            self.change(kinds=tuple(kind for kind in KINDS if kind in value))
        elif name == "severities" and isinstance(value, list):
            self.change(severities=tuple(severity for severity in SEVERITIES if severity in value))
        elif name == "when":
            self.change(in_range=value == "range")
        elif name == "text" and isinstance(value, str):
            self.change(text=value[:100])
        elif name == "clear":
            self.clear_filters()

    def choose_partition(self, partition: object, **more: Any) -> None:
        """One partition, or all (None)."""
        if partition is None or (isinstance(partition, int) and partition in self.state.partitions):
            self.change(partition=partition, **more)

    def clear_filters(self, _: object = None) -> None:
        """All alerts."""
        self.change(kinds=(), severities=(), text="", in_range=False, partition=None)

    def change(self, **changes: Any) -> None:
        """Choose something else, and show it; the address follows."""
        self.view = replace(self.view, **changes)
        self.top.show(address=frame.href(self.state.facts.name, self.view.query()))
        self.refresh(forced=True)

    def go_back(self, query: object) -> None:
        """The browser went back, or forth."""
        if isinstance(query, str):
            self.view = View.of(dict(parse_qsl(query.removeprefix("?"))))
            self.top.show(address=frame.href(self.state.facts.name, self.view.query()))
            self.refresh(forced=True)

    def look(self, window: object) -> None:
        """Zoom in on two moments, or out (None)."""
        zoom: Zoom = None
        if isinstance(window, list) and len(window) == 2:
            since, until = window
            good = all(isinstance(at, int | float) and math.isfinite(at) for at in window)
            if good and 1.0 <= until - since <= self.shown.seconds:
                zoom = (round(float(since)), round(float(until)))
        if zoom != self.zoom:
            self.zoom = zoom
            self.refresh(forced=True)

    # What is shown -------------------------------------------------------------------------------------------------

    def show(self, now: float) -> None:
        """Show the head and the panel."""
        pipeline = self.state
        if (
            self.view.partition is not None
            and pipeline.partitions
            and self.view.partition not in pipeline.partitions
        ):
            self.view = replace(self.view, partition=None)
        view = self.shown = self.view.resolved(charts.known_seconds(pipeline, now))
        feed = self.site.feeds[pipeline.facts.name]
        word = frame.standing(pipeline, feed, now)
        self.head.show(**frame.head(pipeline, feed, now, self.remembered))
        is_old = frame.is_old(pipeline, word, now)
        self.main.classes(add="hr-stale" if is_old else "", remove="" if is_old else "hr-stale")
        self.tabs.show(tabs=panels.tabs(pipeline), value=view.tab)
        self.panel.props(f"aria-labelledby=tab-{view.tab}")
        something = bool(pipeline.partitions or pipeline.alerts)
        self.controls.show(groups=panels.controls(pipeline, view) if something else [])
        laid = self._layout(something)
        if laid != self._laid:
            self._laid = laid
            self.panel.clear()
            with self.panel:
                self._fill = self._lay() if something else self._lay_nothing(word)
        self._fill(now)

    def _layout(self, something: bool) -> object:
        """What decides which parts the panel needs."""
        pipeline, view = self.state, self.shown
        if not something:
            return frame.standing(pipeline, self.site.feeds[pipeline.facts.name], self.site.clock())
        return view.tab, bool(pipeline.facts.watches), bool(pipeline.partitions)

    def _lay_nothing(self, word: str) -> Callable[[float], None]:
        notice = Notice()
        if word in ("connecting", "away"):
            notice.show(
                icon="away",
                title="Nothing is known yet",
                text=(
                    f"Kafka at {self.state.facts.brokers} can't be read. Start a broker, or mend [kafka] in the "
                    "settings:"
                ),
                command=f'headrace broker\n\n[kafka]\nbootstrap_servers = "{plain(self.state.facts.brokers, 200)}"',
            )
        elif word == "loading":
            notice.show(icon="stale", title="Reading what was written before", text="This takes a moment.")
        else:
            notice.show(
                icon="no-data",
                title="No worker has reported yet",
                text=(
                    f"Workers write to the topic {plain(self.state.facts.status_topic, 200)} every few seconds. "
                    "Start one:"
                ),
                command=frame.run_command(self.state),
            )
        return lambda now: None

    def _lay(self) -> Callable[[float], None]:
        return {
            "quality": self._lay_quality,
            "alerts": self._lay_alerts,
            "features": self._lay_features,
            "data": self._lay_data,
            "partitions": self._lay_partitions,
            "learner": self._lay_learner,
        }[self.shown.tab]()

    def _chart(self) -> Chart:
        chart = Chart()
        chart.listen("zoom", self.look)
        return chart

    def _lay_quality(self) -> Callable[[float], None]:
        chart = self._chart()
        table = Table()
        table.show(caption="Newest alerts", columns=panels.ALERT_COLUMNS)
        table.set_visibility(False)

        def fill(now: float) -> None:
            view = self.shown
            chart.show(
                span=RANGES[view.range][0],
                **charts.quality(
                    self.state,
                    panels.metric_of(self.state, view),
                    seconds=view.seconds,
                    now=now,
                    partition=view.partition,
                    zoom=self.zoom,
                    remembered=self.remembered,
                ),
            )
            rows = panels.alert_rows(self.state, View(partition=view.partition), now, 5)
            table.show(rows=rows)
            table.set_visibility(bool(rows))

        return fill

    def _lay_alerts(self) -> Callable[[float], None]:
        filters = Controls()
        filters.show(label="Filters")
        filters.listen("choose", self.choose)
        table = Table()
        table.show(columns=panels.ALERT_COLUMNS)
        table.listen("more", lambda _: self._more_alerts())
        notice = Notice()
        notice.listen("act", self.clear_filters)

        def fill(now: float) -> None:
            filters.show(groups=panels.alert_filters(self.shown) if self.state.alerts else [])
            rows = panels.alert_rows(self.state, self.shown, now, self.alert_rows + 1)
            more = len(rows) > self.alert_rows
            rows = rows[: self.alert_rows]
            table.show(
                rows=rows,
                caption="Alerts, the newest first" + (f": {many(len(rows), 'of them')}" if more else ""),
                more=f"Show {ALERT_ROWS} more" if more else "",
            )
            table.set_visibility(bool(rows))
            notice.set_visibility(not rows)
            if not rows:
                empty: dict[str, Any] = {"text": "", "command": "", "action": ""}
                notice.show(**(empty | panels.no_alerts(self.state, self.shown)))

        return fill

    def _more_alerts(self) -> None:
        self.alert_rows += ALERT_ROWS
        self.refresh(forced=True)

    def _lay_features(self) -> Callable[[float], None]:
        if not self.state.facts.watches and not any(
            item.status.drift for item in self.state.partitions.values()
        ):
            Notice().show(**panels.no_watches())
            return lambda now: None
        chart = self._chart()
        watches = Watches()
        watches.listen("choose", self.choose_partition)

        def fill(now: float) -> None:
            watches.show(watches=panels.watches(self.state, self.shown, now))
            chart.show(
                span=RANGES[self.shown.range][0],
                **panels.means_chart(self.state, self.shown, now, self.zoom, self.remembered),
            )

        watches.move(target_index=0)
        return fill

    def _lay_data(self) -> Callable[[float], None]:
        found: dict[str, Chart] = {}
        with _pair():
            for name in ("rate", "lag", "coverage", "delay", "odd", "pending"):
                found[name] = self._chart()
        relay = Table()
        relay.show(columns=panels.RELAY_COLUMNS, rows=[])
        relay.set_visibility(self.state.relay is not None)
        with _pair():
            labels, delays = Facts(), Facts()
        with _pair():
            classes = Facts()
            found["dead"] = self._chart()
        stages = Facts()
        table = Table()
        table.show(columns=panels.DEAD_LETTER_COLUMNS, caption="Newest dead letters", rows=[])
        table.set_visibility(False)
        notice = Notice()
        notice.set_visibility(False)

        def fill(now: float) -> None:
            for name, picture in panels.data_charts(
                self.state, self.shown, now, self.zoom, self.remembered
            ).items():
                found[name].show(span=RANGES[self.shown.range][0], **picture)
            if self.state.relay is not None:
                caption = panels.relay_caption(self.state, now)
                relay.show(caption=caption, rows=panels.relay_rows(self.state, now))
            labels.show(**panels.label_facts(self.state, self.shown.partition))
            delays.show(**panels.delay_bars(self.state, self.shown.partition))
            classes.show(**panels.class_bars(self.state, self.shown.partition))
            stages.show(**panels.dead_letter_bars(self.state))
            self._ask_for_dead_letters(now)
            table.show(rows=panels.dead_letter_rows(self.letters))
            table.set_visibility(bool(self.letters))
            notice.set_visibility(bool(self.letters_problem))
            if self.letters_problem:
                notice.show(
                    icon="away",
                    title="The dead letters can't be read now",
                    text=plain(self.letters_problem, 600),
                    command=panels.dead_letters_command(self.state),
                )

        return fill

    def _ask_for_dead_letters(self, now: float) -> None:
        """Read the newest ones if there are others than those shown, and not all the time."""
        total = sum(item.status.dead_letters for item in self.state.partitions.values())
        if total == 0 or (self._letters_task is not None and not self._letters_task.done()):
            return
        if self._letters_for is not None:
            known, asked = self._letters_for
            if (known == total and not self.letters_problem) or now - asked < DEAD_LETTERS_SECONDS:
                return
        self._letters_for = (total, now)
        self._letters_task = asyncio.get_running_loop().create_task(self._read_dead_letters())

    async def _read_dead_letters(self) -> None:
        try:
            self.letters = await self.site.dead_letters(self.state.facts.name, DEAD_LETTERS)
            self.letters_problem = ""
        except Unavailable as problem:
            self.letters_problem = str(problem)
        if self.view.tab == "data":
            self.refresh(forced=True)

    def _lay_partitions(self) -> Callable[[float], None]:
        workers, partitions = Table(), Table()
        workers.show(caption="Workers", columns=panels.WORKER_COLUMNS, sort="worker")
        partitions.show(caption="Partitions", columns=panels.PARTITION_COLUMNS, sort="partition")
        partitions.listen("choose", lambda number: self.choose_partition(number, tab="quality"))

        def fill(now: float) -> None:
            workers.show(rows=panels.worker_rows(self.state, now))
            partitions.show(rows=panels.partition_rows(self.state, now))

        return fill

    def _lay_learner(self) -> Callable[[float], None]:
        with _pair():
            facts, parameters = Facts(), Facts()
        found: dict[str, Chart] = {}
        with _pair():
            for name in ("time", "size"):
                found[name] = self._chart()

        def fill(now: float) -> None:
            facts.show(**panels.learner_facts(self.state))
            parameters.show(**panels.learner_parameters(self.state))
            for name, picture in panels.learner_charts(
                self.state, self.shown, now, self.zoom, self.remembered
            ).items():
                found[name].show(span=RANGES[self.shown.range][0], **picture)

        return fill


def _pair() -> Element:
    """Two beside each other, one below the other on a phone."""
    return Element("div").classes("hr-pair")


def unknown_page(site: Site, name: str) -> None:
    """A page for a pipeline that is not watched: it says which are."""
    ui.add_css(STYLE)
    ui.context.client.status_code = 404
    with ui.context.client.layout:
        top = Top()
        top.move(target_index=0)
    top.show(now=site.clock(), path=[plain(name, 80)], live=None)
    with Element("div").classes("hr-main").props("id=main tabindex=-1"):
        Notice().show(
            level="h1",
            icon="search",
            title="No pipeline of this name is watched",
            text=f"{plain(name, 80)} is none of those that headrace monitor was started with. There are:",
            links=[{"text": known, "href": frame.href(known)} for known in site.fleet.pipelines],
        )


def register(site: Site) -> None:
    """Register the pages with NiceGUI."""
    remembered = Remembered()

    @ui.page("/", title="Pipelines · Headrace")
    def index() -> None:
        OverviewPage(site, remembered)

    @ui.page("/p/{pipeline}")
    def one(pipeline: str, request: Request) -> None:
        found = site.fleet.pipelines.get(pipeline)
        if found is None:
            ui.page_title("Not found · Headrace")
            unknown_page(site, pipeline)
            return
        ui.page_title(f"{found.facts.name} · Headrace")
        PipelinePage(site, remembered, found, View.of(dict(request.query_params)))
