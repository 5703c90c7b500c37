"""A browser, and what it looks at. Pictures of the pages are kept in `build/browser`: look at them."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Literal, Self

import pytest
from playwright.sync_api import (
    Browser,
    ConsoleMessage,
    Locator,
    Page,
    expect,
    sync_playwright,
)
from playwright.sync_api import TimeoutError as NotInTime

from tests.conftest import skip_on_a_laptop
from tests.support import ROOT, wait_until

SHOTS: Final = ROOT / "build" / "browser"
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Milliseconds that a page may take to show something on a slow machine.
PATIENCE_MS: Final = 60_000

expect.set_options(timeout=PATIENCE_MS)


class Viewer:
    """One window on the dashboard; leaving the block checks that the page complained of nothing.

    Args:
        browser: Whose window.
        address: Of the dashboard.
        width: Of the window, pixels.
        scheme: What the system prefers.
        allowed: What the console may say nevertheless.
    """

    def __init__(
        self,
        browser: Browser,
        address: str,
        *,
        width: int = 1440,
        scheme: Literal["light", "dark"] = "light",
        allowed: str | None = None,
    ) -> None:
        self._context = browser.new_context(
            viewport={"width": width, "height": 900 if width > 700 else 844}, color_scheme=scheme
        )
        self._context.set_default_timeout(PATIENCE_MS)
        self.address = address.rstrip("/")
        self.page: Page = self._context.new_page()
        self.complaints: list[str] = []
        self._allowed = allowed
        self.page.on("console", self._heard)
        self.page.on("pageerror", lambda error: self.complaints.append(f"page error: {error}"))
        self.page.on("dialog", self._asked)
        self.page.on("request", self._requested)

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, dialog: Any) -> None:
        self.complaints.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def _requested(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", self.address.replace("http", "ws", 1))):
            self.complaints.append(f"asked for {request.url}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            with contextlib.suppress(Exception):
                self.shot(f"failed-{kind.__name__}")
        self._context.close()
        if kind is None:
            allowed = self._allowed
            left = [line for line in self.complaints if allowed is None or not re.search(allowed, line)]
            assert not left, left

    def open(self, path: str = "/") -> Page:
        """Go to a page, and wait until it is there."""
        self.page.goto(self.address + path)
        self.page.locator(".hr-main h1, .hr-notice").first.wait_for()
        return self.page

    def tab(self, name: str) -> None:
        """Press a tab, and wait until its panel is there; again, if the page was loaded anew and forgot it."""
        tab = self.page.get_by_role("tab", name=name)

        def is_chosen() -> bool:
            tab.click()
            with contextlib.suppress(AssertionError):
                expect(tab).to_have_attribute("aria-selected", "true", timeout=20_000)
            return tab.get_attribute("aria-selected") == "true"

        wait_until(is_chosen, f"the tab {name} is chosen")

    def fits(self) -> None:
        """Nothing sticks out to the side, once all is in its place."""
        ask = "[document.documentElement.scrollWidth, window.innerWidth]"
        with contextlib.suppress(NotInTime):
            self.page.wait_for_function(f"(([wide, window]) => wide <= window)({ask})", timeout=10_000)
        wide, window = self.page.evaluate(ask)
        assert wide <= window, f"{self.page.url} is {wide} px wide in a window of {window}"

    def shot(self, name: str) -> None:
        """Keep a picture."""
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    @property
    def chart(self) -> Locator:
        """The main chart."""
        return self.page.locator(".hr-chart:not(.hr-chart-small) .hr-canvas")


class Pretended:
    """A dashboard over made-up pipelines, in a process of its own.

    Args:
        log: Where its standard error goes.
        names: Of the pipelines.
    """

    def __init__(self, log: Path, *names: str) -> None:
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.browser.pretend", "0", *names],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().decode().strip()
        assert self.address, f"the dashboard did not start:\n{log.read_text()[-4_000:]}"

    def drift(self) -> None:
        """A feature of the first pipeline drifts."""
        self._process.send_signal(signal.SIGUSR1)

    def stop(self) -> None:
        """End it."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's chromium; skipped where there is none, failing in CI."""
    path = shutil.which("chromium")
    if path is None:
        skip_on_a_laptop(
            "chromium not found: install Debian's package chromium",
            or_fail_with="HEADRACE_TEST_REQUIRE_BROWSER",
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def pretended(browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pretended]:
    """A dashboard over pipelines of every kind, one of them hostile."""
    dashboard = Pretended(tmp_path_factory.mktemp("pretended") / "stderr.log")
    yield dashboard
    dashboard.stop()
