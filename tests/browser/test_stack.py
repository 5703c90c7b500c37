"""The dashboard of `headrace monitor` over a real worker and a real broker, as somebody on call meets it."""

from __future__ import annotations

import random
import re
import time
from pathlib import Path

import orjson
import pytest
from kafka import KafkaConsumer, TopicPartition  # type: ignore[import-untyped]  # kafka-python ships no types
from playwright.sync_api import Browser, expect

from stream.broker import Broker
from tests.browser.conftest import Viewer
from tests.support import Feeder, Incoming, KafkaCase, MonitorProcess, wait_until

pytestmark = [pytest.mark.browser, pytest.mark.integration]

TOKEN = "0f7be5a3c2914d6688aa03e5b1d4c7f9"


class Stream:
    """Labelled events whose concept turns around when told; one in a hundred is garbage."""

    def __init__(self) -> None:
        self.turned = False
        self._rng = random.Random(5)

    def __call__(self, number: int, partition: int) -> Incoming:
        if number % 100 == 99:
            return Incoming(partition, b'{"features": {"a": [1]}, "label": "<img src=x onerror=alert(1)>"}')
        x = {"a": self._rng.gauss(0, 1), "b": self._rng.gauss(0, 1)}
        label = (x["a"] > 0) != self.turned
        return Incoming(partition, orjson.dumps({"id": str(number), "features": x, "label": label}))


def drift_after(case: KafkaCase, stream: Stream) -> int:
    """Turn the concept around, and wait until the drift is on the alerts topic; its offset."""
    consumer = KafkaConsumer(
        bootstrap_servers=case.servers, isolation_level="read_committed", enable_auto_commit=False
    )
    place = TopicPartition(case.topic("alerts"), 0)
    consumer.assign([place])
    consumer.seek(place, consumer.end_offsets([place])[place])
    found: list[int] = []

    def drifted() -> bool:
        for records in consumer.poll(timeout_ms=50).values():
            told = [orjson.loads(record.value) for record in records]
            found.extend(alert["offset"] for alert in told if alert["kind"] == "drift")
        return bool(found)

    stream.turned = not stream.turned
    wait_until(drifted, "the drift is on the alerts topic", pause=0.0)
    consumer.close()
    return found[0]


def sign_in(viewer: Viewer, token: str) -> None:
    """Give the token."""
    viewer.page.get_by_label("Token").fill(token)
    viewer.page.get_by_role("button", name="Sign in").click()


def test_somebody_on_call_sees_the_drift_filters_it_and_lives_through_a_dead_broker(
    browser: Browser, private_broker: Broker, tmp_path: Path, topic_name: str
) -> None:
    stream = Stream()
    case = KafkaCase(
        private_broker.bootstrap_servers,
        tmp_path,
        topic_name[:60],
        drift=[{"watch": "error", "detector": "adwin"}],
        metrics={"use": ["accuracy", "roc_auc"], "window": 200},
    )
    with (
        case,
        MonitorProcess(case.settings_file, HEADRACE_MONITOR_TOKEN=TOKEN) as monitor,
        Viewer(
            browser,
            monitor.address,
            allowed=r"401 \(Unauthorized\)|ERR_CONNECTION_REFUSED|WebSocket connection",
        ) as viewer,
    ):
        # Not everybody may look.
        page = viewer.page
        page.goto(monitor.address)
        sign_in(viewer, "wrong-token-wrong-token-wrong")
        expect(page.get_by_role("alert")).to_contain_text("That is not the token")
        sign_in(viewer, TOKEN)
        expect(page.get_by_role("heading", name="Pipelines")).to_be_visible()

        # No worker yet, then one.
        page.get_by_role("link", name=case.name).click()
        expect(page.get_by_role("heading", name="No worker has reported yet")).to_be_visible()
        expect(page.locator("main")).to_contain_text("headrace run")
        viewer.shot("stack-no-worker")
        worker = case.start()
        with Feeder(case, 200.0, event=stream):
            expect(page.locator(".hr-badge").first).to_have_text("Healthy")
            expect(viewer.chart.locator("canvas")).to_be_visible()
            case.wait_for_predictions(1_500, worker)
            marks = int(viewer.chart.get_attribute("data-marks") or 0)

            # The concept turns around: the drift shows within two seconds of its record on the topic. In one of three
            # rounds, since the machine may stall; with a second of grace, since tests share it.
            took: list[float] = []
            while len(took) < 3 and not (took and took[-1] < 2.0 + 1.0):
                found = drift_after(case, stream)
                told = time.monotonic()
                expect(page.get_by_role("row").filter(has_text=f"[0]@{found}")).to_be_visible()
                took.append(time.monotonic() - told)
            assert min(took) < 2.0 + 1.0, took
            expect(viewer.chart).not_to_have_attribute("data-marks", str(marks))
            viewer.shot("stack-drift")

            # Look closer.
            viewer.tab("Alerts")
            page.get_by_role("group", name="Kind").get_by_role("button", name="Drift").click()
            expect(page.get_by_role("row").filter(has_text=f"[0]@{found}")).to_be_visible()
            page.get_by_role("group", name="Kind").get_by_role("button", name="Drift").click()
            page.get_by_role("searchbox").fill("nothing like it")
            expect(page.get_by_role("heading", name="No alert fits these filters")).to_be_visible()
            page.locator(".hr-notice").get_by_role("button", name="Clear filters").click()
            viewer.tab("Data and labels")
            expect(
                page.get_by_role("table", name="Newest dead letters").get_by_role("row").nth(1)
            ).to_be_visible()
            expect(page.get_by_role("table", name="Newest dead letters")).to_contain_text("decode")
            viewer.tab("Features and drift")
            page.get_by_role("button", name="5 min", exact=True).click()
            expect(page.locator(".hr-watch .hr-badge")).to_have_text(re.compile(r"\d+ drifts? in 5 min"))
            page.get_by_role("button", name="15 min").click()
            expect(page.locator(".hr-watch .hr-badge")).to_have_text(re.compile(r"in 15 min"))
            viewer.shot("stack-features")
            viewer.tab("Quality")
            page.get_by_role("button", name="Change to light").click()
            page.get_by_role("button", name="Change to dark").click()
            viewer.shot("stack-dark")
            with Viewer(browser, monitor.address, width=390) as phone:
                phone.page.goto(monitor.address)
                sign_in(phone, TOKEN)
                phone.page.get_by_role("link", name=case.name).click()
                expect(phone.chart.locator("canvas")).to_be_visible()
                phone.fits()
                phone.shot("stack-phone")

        # The broker dies under it, and comes back.
        private_broker.kill()
        expect(page.locator(".hr-banner", has_text="Kafka away")).to_be_visible()
        expect(page.locator(".hr-banner", has_text=case.servers)).to_be_visible()
        viewer.shot("stack-broker-away")
        private_broker.restart()
        expect(page.locator(".hr-banner", has_text="Kafka away")).to_have_count(0, timeout=300_000)
        expect(page.locator(".hr-live")).to_have_text("live", timeout=300_000)
        assert worker.is_running(), worker.stderr
        assert monitor.end() == 0
        expect(page.locator("#popup")).to_be_visible()
        expect(page.locator(".hr-live")).to_be_hidden()
        viewer.shot("stack-monitor-gone")
