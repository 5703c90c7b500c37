"""Takes the pictures of the README and the docs from a running dashboard; `make screenshots` starts one for it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final, Literal, NamedTuple

from playwright.sync_api import Browser, sync_playwright

CHROMIUM: Final = "/usr/bin/chromium"
FLAGS: Final = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
#: Largest picture that may go into the docs, bytes.
MOST_BYTES: Final = 300_000


class Picture(NamedTuple):
    """One picture: its name, what of the dashboard, how wide and high, and light or dark."""

    name: str
    path: str
    #: Is there once the page is complete.
    awaited: str
    width: int = 1440
    height: int = 900
    scheme: Literal["light", "dark"] = "light"


PICTURES: Final = (
    Picture("overview", "/", ".hr-row .hr-spark-line", height=560),
    Picture("quality", "/p/payments-fraud?range=5m", ".hr-canvas canvas", height=1000),
    Picture("quality-dark", "/p/payments-fraud?range=5m", ".hr-canvas canvas", height=1000, scheme="dark"),
    Picture("alerts", "/p/payments-fraud?tab=alerts&kind=drift", "tbody tr", height=860),
    Picture("drift", "/p/payments-fraud?tab=features&range=5m", ".hr-watch", height=900, scheme="dark"),
    Picture("phone", "/p/payments-fraud?range=5m", ".hr-canvas canvas", width=390, height=1180),
)


def take(browser: Browser, address: str, picture: Picture, folder: Path) -> None:
    """Take one picture; complains if it is too large for the docs."""
    context = browser.new_context(
        viewport={"width": picture.width, "height": picture.height}, color_scheme=picture.scheme
    )
    page = context.new_page()
    page.goto(address.rstrip("/") + picture.path)
    page.locator(picture.awaited).first.wait_for()
    page.wait_for_load_state("networkidle")
    file = folder / f"{picture.name}.png"
    page.screenshot(path=file)
    context.close()
    size = file.stat().st_size
    print(f"{file}: {size:,} bytes", flush=True)
    if size > MOST_BYTES:
        raise SystemExit(f"{file} has {size:,} bytes; expected at most {MOST_BYTES:,}")


def main() -> None:
    """Take all pictures: screenshots.py ADDRESS FOLDER."""
    address, folder = sys.argv[1], Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        for picture in PICTURES:
            take(browser, address, picture, folder)
        browser.close()


if __name__ == "__main__":
    main()
