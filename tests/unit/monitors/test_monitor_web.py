"""Who may look at the monitor, and what a browser may do with its pages."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import Message, Receive, Scope, Send

from monitors.app import web
from monitors.app.config import MonitorConfig, is_loopback
from monitors.app.web import COOKIE, Guard

TOKEN = "0123456789abcdef0123456789abcdef"

PAGE = """<html>
<script type="importmap">{}</script>
    <script>ours()</script>
<p>theirs: &lt;script> and <b>x</b><script>theirs()</script></p>
</html>"""


async def behind(scope: Scope, receive: Receive, send: Send) -> None:
    """What the guard guards."""
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        return
    page = scope["path"] == "/"
    await (HTMLResponse(PAGE) if page else PlainTextResponse("inside"))(scope, receive, send)


def ask(
    path: str = "/api",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Mapping[str, bytes] | None = None,
    body: str | None = None,
    **config: Any,
) -> httpx.Response:
    guard = Guard(behind, MonitorConfig(pipelines=(), **config))
    raw = [
        (name.encode(), value if isinstance(value, bytes) else value.encode())
        for name, value in (headers or {}).items()
    ]

    async def go() -> httpx.Response:
        transport = httpx.ASGITransport(app=guard)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8800") as client:
            return await client.request(method, path, headers=raw, content=body)

    return asyncio.run(go())


def open_websocket(headers: Mapping[str, str], **config: Any) -> str:
    """What a websocket is told first."""
    guard = Guard(behind, MonitorConfig(pipelines=(), **config))
    said: list[Message] = []

    async def receive() -> Message:
        return {"type": "websocket.connect"}

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "websocket",
        "path": "/_nicegui_ws/socket.io/",
        "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
    }
    asyncio.run(guard(scope, receive, send))
    return str(said[0]["type"])


# --- The address and its token ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_loopback_needs_no_token(host: str) -> None:
    assert is_loopback(host)
    MonitorConfig(pipelines=(), host=host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "monitor.example", "127.0.0.1.evil.example"]
)
def test_any_other_address_is_refused_without_a_token(host: str) -> None:
    with pytest.raises(ValueError, match="HEADRACE_MONITOR_TOKEN"):
        MonitorConfig(pipelines=(), host=host)

    MonitorConfig(pipelines=(), host=host, token=TOKEN)


@pytest.mark.parametrize("token", ["", "short", "a" * 64, "ab" * 20])
def test_a_token_that_can_be_guessed_is_refused(token: str) -> None:
    with pytest.raises(ValueError, match="128 random bits"):
        MonitorConfig(pipelines=(), token=token)


def test_a_token_that_no_header_carries_is_refused() -> None:
    with pytest.raises(ValueError, match="header can't carry"):
        MonitorConfig(pipelines=(), token=TOKEN + " ü")


def test_the_token_does_not_show_in_the_config() -> None:
    assert TOKEN not in repr(MonitorConfig(pipelines=(), token=TOKEN))


# --- Host, Origin, method --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8800", "localhost:8800", "localhost", "[::1]:8800", "10.0.0.7:80"]
)
def test_an_address_or_localhost_is_a_host_of_ours(host: str) -> None:
    assert ask(headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8800", "127.0.0.1.evil.example", "localhost.evil.example", "", "[", "a b"],
)
def test_another_name_is_refused_or_a_site_could_point_its_own_here(host: str) -> None:
    assert ask(headers={"host": host}).status_code == 421
    assert open_websocket({"host": host, "origin": f"http://{host}"}) == "websocket.close"


def test_a_name_that_was_given_is_a_host_of_ours() -> None:
    assert ask(headers={"host": "Drift.Example"}, names=["drift.example"]).status_code == 200


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9999",
        "http://localhost:8800",
        "http://[",
        "file://127.0.0.1:8800",
        "",
    ],
)
def test_another_origin_is_refused(origin: str) -> None:
    headers = {"host": "127.0.0.1:8800", "origin": origin}

    assert ask(headers=headers).status_code == 403
    assert open_websocket(headers) == "websocket.close"


def test_the_own_origin_is_let_in() -> None:
    headers = {"host": "127.0.0.1:8800", "origin": "http://127.0.0.1:8800"}

    assert ask(headers=headers).status_code == 200
    assert open_websocket(headers) == "websocket.accept"


def test_a_websocket_without_origin_is_refused() -> None:
    assert open_websocket({"host": "127.0.0.1:8800"}) == "websocket.close"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_nothing_can_be_changed(method: str) -> None:
    assert ask(method=method).status_code == 405


# --- The token -------------------------------------------------------------------------------------------


def test_with_a_token_nothing_but_health_answers_without_it() -> None:
    for path in ("/", "/api", "/api/pipelines", "/metrics", "/_nicegui/x.js", "/readyz"):
        assert ask(path, token=TOKEN).status_code == 401, path
    assert ask("/healthz", token=TOKEN).status_code == 200
    headers = {"host": "127.0.0.1:8800", "origin": "http://127.0.0.1:8800"}
    assert open_websocket(headers, token=TOKEN) == "websocket.close"


def test_a_script_gives_the_token_as_bearer() -> None:
    assert ask(headers={"authorization": f"Bearer {TOKEN}"}, token=TOKEN).status_code == 200


@pytest.mark.parametrize(
    "given",
    ["Bearer", "Bearer ", f"Bearer {TOKEN}x", f"Bearer {TOKEN[:-1]}", f"Basic {TOKEN}", TOKEN, "Bearer ü"],
)
def test_a_wrong_token_is_refused(given: str) -> None:
    answer = ask(headers={"authorization": given.encode()}, token=TOKEN)

    assert answer.status_code == 401
    assert TOKEN not in answer.text


def test_a_browser_is_led_to_the_page_that_asks_for_the_token() -> None:
    answer = ask("/", headers={"accept": "text/html"}, token=TOKEN)

    assert (answer.status_code, answer.headers["location"]) == (303, "/login")
    page = ask("/login", token=TOKEN)
    assert page.status_code == 200
    assert 'type="password"' in page.text
    assert "script-src 'none'" in page.headers["content-security-policy"]


def test_the_right_token_gives_a_cookie_that_scripts_cant_read_and_that_opens() -> None:
    answer = ask("/login", method="POST", body=f"token={TOKEN}", token=TOKEN)

    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert cookie.startswith(COOKIE)
    headers = {
        "host": "127.0.0.1:8800",
        "origin": "http://127.0.0.1:8800",
        "cookie": f"a=b; {cookie.split(';')[0]}",
    }
    assert ask(headers=headers, token=TOKEN).status_code == 200
    assert open_websocket(headers, token=TOKEN) == "websocket.accept"
    assert ask(headers=headers, token=TOKEN[::-1]).status_code == 401


def test_two_monitors_on_one_host_are_signed_in_to_side_by_side() -> None:
    """As through tunnels to both: a browser has one place for cookies of 127.0.0.1."""
    jar: dict[str, str] = {}
    for token in (TOKEN, TOKEN[::-1]):
        cookie = ask("/login", method="POST", body=f"token={token}", token=token).headers["set-cookie"]
        name, _, value = cookie.split(";")[0].partition("=")
        jar[name] = value

    headers = {
        "host": "127.0.0.1:8800",
        "cookie": "; ".join(f"{name}={value}" for name, value in jar.items()),
    }
    for token in (TOKEN, TOKEN[::-1]):
        assert ask(headers=headers, token=token).status_code == 200


@pytest.mark.parametrize("other", ['theme={"dark":true}', "a b=c", "[x]=1", "=", "naïve=1"])
def test_a_cookie_of_another_program_on_this_host_does_not_hide_ours(other: str) -> None:
    """Browsers send a host's cookies to all of its ports."""
    cookie = (
        ask("/login", method="POST", body=f"token={TOKEN}", token=TOKEN).headers["set-cookie"].split(";")[0]
    )

    for both in (f"{other}; {cookie}", f"{cookie}; {other}"):
        assert ask(headers={"host": "127.0.0.1:8800", "cookie": both}, token=TOKEN).status_code == 200


def test_a_wrong_token_on_the_page_says_so_and_gives_no_cookie() -> None:
    answer = ask("/login", method="POST", body="token=" + "x" * 10_000, token=TOKEN)

    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert 'role="alert"' in answer.text


def test_a_form_of_another_site_cant_sign_in() -> None:
    headers = {"host": "127.0.0.1:8800", "origin": "http://evil.example"}

    answer = ask("/login", method="POST", body=f"token={TOKEN}", headers=headers, token=TOKEN)

    assert answer.status_code == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_site_may_link_here_and_ask_for_nothing_else(site: str) -> None:
    def status(**fetch: str) -> int:
        return ask("/", headers={f"sec-fetch-{name}": value for name, value in fetch.items()}).status_code

    assert status(site=site, mode="no-cors", dest="image") == 403
    assert status(site=site, mode="navigate", dest="iframe") == 403
    assert status(site=site) == 403
    assert status(site=site, mode="navigate", dest="document") == 200
    link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    assert ask("/login", method="POST", headers=link, body=f"token={TOKEN}", token=TOKEN).status_code == 403
    assert status(site="same-origin", mode="cors", dest="empty") == 200
    assert status(site="none", mode="navigate", dest="document") == 200


@pytest.mark.parametrize(
    ("origin", "secure"), [("https://127.0.0.1:8800", True), ("http://127.0.0.1:8800", False)]
)
def test_a_browser_that_came_by_tls_keeps_the_cookie_for_tls(origin: str, secure: bool) -> None:
    headers = {"host": "127.0.0.1:8800", "origin": origin}

    answer = ask("/login", method="POST", body=f"token={TOKEN}", headers=headers, token=TOKEN)

    assert ("Secure" in answer.headers["set-cookie"]) == secure


def test_a_form_that_never_comes_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "FORM_SECONDS", 0.01)
    said: list[Message] = []

    async def never() -> Message:
        await asyncio.sleep(60)
        raise AssertionError

    async def send(message: Message) -> None:
        said.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "path": "/login",
        "scheme": "http",
        "headers": [(b"host", b"127.0.0.1:8800")],
    }
    guard = Guard(behind, MonitorConfig(pipelines=(), token=TOKEN))
    asyncio.run(asyncio.wait_for(guard(scope, never, send), 30))

    assert said[0]["status"] == 401


def test_head_is_get_without_the_body() -> None:
    for path in ("/", "/api"):
        answer = ask(path, method="HEAD")

        assert (answer.status_code, answer.content) == (200, b"")
        assert int(answer.headers["content-length"]) > 0


# --- What a page may do ----------------------------------------------------------------------------------


def test_a_page_runs_its_own_scripts_only() -> None:
    answer = ask("/")

    policy = answer.headers["content-security-policy"]
    found = re.search(r"'nonce-([\w-]+)'", policy)
    assert found is not None
    assert "script-src 'self' 'nonce-" in policy
    assert "'unsafe-inline'" not in policy.split("style-src")[0]
    assert answer.text.count(f'<script nonce="{found[1]}"') == 2
    assert "</b><script>theirs()" in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)


def test_each_page_has_a_nonce_of_its_own() -> None:
    policies = {ask("/").headers["content-security-policy"] for _ in range(3)}

    assert len(policies) == 3


def test_all_else_may_run_nothing() -> None:
    headers = ask("/api").headers

    assert "script-src 'none'" in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["cache-control"] == "no-store"
