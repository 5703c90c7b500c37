"""The API without a broker and without a dashboard; tests/integration has it beside workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import httpx
from fastapi import FastAPI

from monitors import LABEL_COUNTS, label_health
from monitors.app.api import add_api
from monitors.app.site import DeadLetter, Feed, Site, Unavailable
from monitors.fleet import Fleet
from tests.unit.monitors.fleet_cases import FACTS, STATUS, record


async def away(pipeline: str, most: int) -> Sequence[DeadLetter]:
    raise Unavailable("no broker answers")


def ask(*paths: str) -> list[httpx.Response]:
    fleet = Fleet([FACTS])
    for partition in range(3):
        value = record(
            STATUS,
            partition=partition,
            events=2**52,
            dead_letters_by_stage={"decode": 2**52},
            joined=6,
            late=4,
            label_delay_histogram={"bounds": [0.0, 1.0], "counts": [1, 0, 2]},
        )
        assert fleet.pipelines["fraud"].apply("status", partition, 0, value, seen_at=STATUS.time) == "status"
    site = Site(fleet=fleet, feeds={"fraud": Feed()}, dead_letters=away, clock=lambda: STATUS.time)
    app = FastAPI(openapi_url="/api/openapi.json")
    add_api(app, site, version="1", exposition=lambda accept: ("text/plain", b""))

    async def go() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            return [await client.get(path) for path in paths]

    return asyncio.run(go())


def test_a_path_that_there_is_not_is_told_as_json() -> None:
    for answer in ask("/api/nothing", "/api/pipelines/fraud/nothing", "/api/"):
        assert answer.status_code == 404
        assert "there is nothing at this path" in answer.json()["detail"]


def test_the_index_names_what_there_is_and_each_of_it_is_there() -> None:
    paths = ask("/api")[0].json()["paths"]

    assert "/api/openapi.json" in paths
    assert not any("rest" in path for path in paths)
    for answer in ask(*(path.format(name="fraud") for path in paths)):
        assert answer.status_code in (200, 422, 503)


def test_labels_are_told_of_the_pipeline_and_of_each_partition() -> None:
    found = ask("/api/pipelines/fraud")[0].json()

    assert set(LABEL_COUNTS) < set(found["labels"])
    assert set(found["labels"]["shares"]) == set(label_health({}))
    assert [row["labels"]["late"] for row in found["partition_list"]] == [4, 4, 4]
    assert (found["labels"]["late"], found["labels"]["shares"]["late"]) == (12, 0.4)
    assert found["labels"]["delay_histogram"] == {"bounds": [0.0, 1.0], "counts": [3.0, 0.0, 6.0]}
    assert {"coverage", "late_share", "label_delay_p95"} <= set(found["columns"])


def test_sums_of_the_largest_counts_that_are_taken_in_fit_into_json() -> None:
    pipeline, lines = ask("/api/pipelines/fraud", "/api/pipelines")

    assert pipeline.json()["dead_letters_by_stage"] == {"decode": 3 * 2**52}
    assert lines.json()[0]["events"] == 3 * 2**52


def test_a_broker_that_is_away_is_503_with_a_sentence() -> None:
    (answer,) = ask("/api/pipelines/fraud/dead-letters")

    assert (answer.status_code, answer.json()) == (503, {"detail": "no broker answers"})
