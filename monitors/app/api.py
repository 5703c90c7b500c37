"""The JSON API under `/api`, with `/healthz` and `/readyz`: what the dashboard shows, for scripts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import FastAPI, HTTPException, Query
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from monitors.app.site import Site, Unavailable
from monitors.app.web import json_response
from monitors.fleet import PipelineState, views

#: Longest range of a chart, seconds, and the most points of one.
MOST_SECONDS = 7 * 86_400.0
MOST_POINTS = 5_000
#: All other paths.
NOTHING = "/api/{rest:path}"


def add_api(
    app: FastAPI, site: Site, *, version: str, exposition: Callable[[str], tuple[str, bytes]]
) -> None:
    """Add the routes.

    Args:
        app: To what.
        site: What they tell of.
        version: Version of Headrace.
        exposition: Makes the text for Prometheus of an Accept header.
    """

    def pipeline_of(name: str) -> PipelineState:
        found = site.fleet.pipelines.get(name)
        if found is None:
            there = ", ".join(site.fleet.pipelines)
            raise HTTPException(404, f"no pipeline of this name is watched; there are: {there}")
        return found

    def feed_of(name: str) -> dict[str, Any]:
        feed = site.feeds[name]
        return {"state": feed.state, "problem": feed.problem or None, "loaded": feed.loaded}

    @app.get("/healthz")
    async def healthz() -> Response:
        """The process lives."""
        return PlainTextResponse("ok\n")

    @app.get("/readyz")
    async def readyz() -> Response:
        """Every pipeline's topics are read to their ends."""
        waiting = [f"{name}: {feed.state}" for name, feed in site.feeds.items() if feed.state != "live"]
        if waiting:
            return PlainTextResponse("\n".join(waiting) + "\n", 503)
        return PlainTextResponse("ok\n")

    @app.get("/metrics")
    async def metrics(request: Request) -> Response:
        """For Prometheus."""
        kind, body = exposition(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": kind})

    @app.get("/api")
    async def index() -> Response:
        """What there is."""
        return json_response(
            {
                "version": version,
                "pipelines": list(site.fleet.pipelines),
                "paths": sorted(
                    path
                    for route in app.routes
                    if (path := str(getattr(route, "path", ""))).startswith("/api/") and path != NOTHING
                ),
            }
        )

    @app.get("/api/pipelines")
    async def pipelines() -> Response:
        """A line for each pipeline."""
        now = site.clock()
        return json_response(
            [line | {"feed": feed_of(line["pipeline"])} for line in views.overview(site.fleet, now)]
        )

    @app.get("/api/pipelines/{name}")
    async def pipeline(name: str) -> Response:
        """All that is known of one pipeline now."""
        found, now = pipeline_of(name), site.clock()
        return json_response(
            views.summary(found, now)
            | {
                "feed": feed_of(name),
                "open_incidents": views.open_incidents(found),
                "partition_list": views.partitions(found, now),
                "labels": views.labels(found),
                "relay": None if found.relay is None else found.relay.to_dict(now),
                "dead_letters_by_stage": views.dead_letters(found),
                "classes": views.classes(found),
                "drift": views.drift_watches(found),
                "learner_facts": views.learner(found),
                "columns": views.columns(found),
                "unreadable_records": found.unreadable,
                "last_unreadable": found.last_unreadable or None,
                "notifications": [c for c in site.channels() if c.get("pipeline") == name],
            }
        )

    @app.get("/api/pipelines/{name}/alerts")
    async def alerts(  # noqa: PLR0917  # FastAPI takes them by name
        name: str,
        kind: Annotated[list[Literal["drift", "warning", "incident"]] | None, Query()] = None,
        severity: Annotated[list[Literal["critical", "warning", "info"]] | None, Query()] = None,
        partition: Annotated[int | None, Query(ge=0)] = None,
        text: Annotated[str, Query(max_length=200)] = "",
        since: float = 0.0,
        most: Annotated[int, Query(ge=1, le=5_000)] = views.ROWS,
    ) -> Response:
        """Alerts and incidents, the newest first."""
        return json_response(
            views.alerts(
                pipeline_of(name),
                kinds=kind or (),
                severities=severity or (),
                partition=partition,
                text=text,
                since=since,
                most=most,
            )
        )

    @app.get("/api/pipelines/{name}/chart")
    async def chart(
        name: str,
        column: Annotated[list[str], Query(min_length=1, max_length=64)],
        seconds: Annotated[float, Query(gt=0, le=MOST_SECONDS)] = 3_600.0,
        partition: Annotated[int | None, Query(ge=0)] = None,
        points: Annotated[int, Query(ge=1, le=MOST_POINTS)] = views.POINTS,
    ) -> Response:
        """Figures over the last so many seconds, with the drifts and warnings within them."""
        found, until = pipeline_of(name), site.clock()
        since = until - seconds
        known = frozenset(views.columns(found))
        unknown = [item for item in column if item not in known]
        if unknown and found.partitions:
            raise HTTPException(
                422, f"no such column: {', '.join(unknown)[:500]}; see `columns` of the pipeline"
            )
        return json_response(
            views.chart(found, column, since=since, until=until, partition=partition, points=points)
            | {"marks": views.marks(found, since=since, until=until, partition=partition)}
        )

    @app.get("/api/pipelines/{name}/dead-letters")
    async def dead_letters(name: str, most: Annotated[int, Query(ge=1, le=200)] = 50) -> Response:
        """The newest dead letters, the newest first, read from their topic within the last second."""
        pipeline_of(name)
        try:
            found = await site.dead_letters(name, most)
        except Unavailable as error:
            raise HTTPException(503, str(error)) from error
        return json_response(list(found))

    @app.get(NOTHING, include_in_schema=False)
    async def nothing(rest: str) -> Response:
        """A script is told in JSON that there is nothing, not by a page."""
        raise HTTPException(404, "there is nothing at this path; /api names those that there are")
