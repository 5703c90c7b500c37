"""The monitor's web server: who may look, the JSON API, health, `/metrics`, and the dashboard behind them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
import secrets
import socket
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, Final
from urllib.parse import parse_qs, urlsplit

import orjson
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from monitors.app.config import MonitorConfig

#: What the name of the cookie begins with that a browser gets for the token. The rest is of the token: two monitors on
#: one host share its cookies, whatever their ports, as through tunnels to both.
COOKIE: Final = "headrace_monitor"
#: Seconds that a browser stays signed in.
SIGNED_IN_SECONDS: Final = 30 * 86_400
#: Where a script asks whether the process lives; the only page beside `/login` that needs no token.
HEALTH: Final = "/healthz"
LOGIN: Final = "/login"
#: What the dashboard's own channel posts to when a browser has no websocket.
CHANNEL: Final = "/_nicegui_ws/"
#: Most bytes of a posted login form.
MOST_FORM_BYTES: Final = 4_096
#: A form that has not come after so long is taken as it is, seconds.
FORM_SECONDS: Final = 10.0
#: A wrong token is answered after so long, seconds.
REFUSED_AFTER: Final = 0.5
#: The script elements of a page: at the beginning of a line, as the template writes them, never within a text.
_SCRIPT: Final = re.compile(rb"^([ \t]*)<script(?=[ >])", re.MULTILINE)

_COMMON_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # With no-referrer a browser posts the login form with "Origin: null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
}


def content_security_policy(nonce: str | None) -> str:
    """What a page may load and run.

    Scripts: ours, and those of the page itself by its nonce. `unsafe-eval` is for Vue, which makes its templates
    into functions in the browser; `unsafe-inline` styles are for Quasar, which positions elements by them.
    """
    scripts = "'none'" if nonce is None else f"'self' 'nonce-{nonce}' 'unsafe-eval'"
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
        "font-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        "object-src 'none'"
    )


class Guard:
    """Lets in who may look, and lets nobody change anything.

    Looked at, for websockets as for all else: Host, so that no other name can be pointed here (DNS rebinding);
    Origin, so that no other site's page can read; the token, if there is one; the method.

    Args:
        app: What lies behind.
        config: Host, names and token.
    """

    def __init__(self, app: ASGIApp, config: MonitorConfig) -> None:
        self._app = app
        self._token = config.token
        self._names = {"localhost", socket.gethostname().lower(), config.host.lower()} | {
            name.lower() for name in config.names
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or let what lies behind answer."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, receive, send, *refusal)
            return
        path = scope["path"]
        if scope["type"] == "http" and path == LOGIN:
            await self._login(scope, receive, send)
        elif path == HEALTH or self._is_known(headers):
            await self._pass(scope, receive, send)
        elif scope["type"] == "http" and "text/html" in headers.get("accept", ""):
            await RedirectResponse(LOGIN, 303, headers=_login_headers())(scope, receive, send)
        else:
            await _refuse(scope, receive, send, 401, "a token is needed: Authorization: Bearer TOKEN")

    def _refusal(self, scope: Scope, headers: Headers) -> tuple[int, str] | None:
        hosts = headers.getlist("host")
        if len(hosts) != 1 or not self._is_ours(hosts[0]):
            return 421, "this Host is not the monitor's; start it with --name NAME to allow one"
        origins = headers.getlist("origin")
        if any(not _is_of(origin, hosts[0]) for origin in origins):
            return 403, "this Origin may not read the monitor"
        # A page of another site that asks for a picture or a script sends no Origin: it can't read the answer, but
        # could keep the monitor busy. It may link here.
        if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            is_link = (
                scope.get("method") == "GET"
                and headers.get("sec-fetch-mode") == "navigate"
                and headers.get("sec-fetch-dest") == "document"
            )
            if not is_link:
                return 403, "another site may link to the monitor, not ask it"
        if scope["type"] == "websocket":
            return None if origins else (403, "a websocket without Origin is none of a browser's")
        method, path = scope["method"], scope["path"]
        may_post = path == LOGIN or path.startswith(CHANNEL)
        if method not in ("GET", "HEAD") and not (method == "POST" and may_post):
            return 405, "the monitor is read-only: GET and HEAD"
        return None

    def _is_ours(self, host: str) -> bool:
        """A name of ours, or an address: only a name can be made to point here by somebody else."""
        try:
            name = urlsplit(f"//{host}").hostname
        except ValueError:
            return False
        if name is None:
            return False
        if name in self._names:
            return True
        try:
            ip_address(name)
        except ValueError:
            return False
        return True

    # The token --------------------------------------------------------------------------------------------------

    def _is_known(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            return _equal(given.strip(), self._token)
        # Browsers send the cookies of all that runs on this host, whatever the port. SimpleCookie would drop ours for
        # the sake of another that it can't read.
        cookies = cookie_parser("; ".join(headers.getlist("cookie")))
        return _equal(cookies.get(self._cookie_name(), ""), self._cookie())

    def _cookie(self) -> str:
        """What a browser keeps: made from the token, and not to be turned back into it."""
        return self._made_of_token(b"headrace monitor cookie")

    def _cookie_name(self) -> str:
        return f"{COOKIE}_{self._made_of_token(b'headrace monitor cookie name')[:16]}"

    def _made_of_token(self, what: bytes) -> str:
        return hmac.new((self._token or "").encode(), what, hashlib.sha256).hexdigest()

    async def _login(self, scope: Scope, receive: Receive, send: Send) -> None:
        response: Response
        if self._token is None:
            response = RedirectResponse("/", 303)
        elif scope["method"] == "POST":
            try:
                posted = await asyncio.wait_for(_body(receive, MOST_FORM_BYTES), FORM_SECONDS)
            except TimeoutError:
                posted = b""
            form = parse_qs(posted.decode("utf-8", "replace"))
            if _equal("".join(form.get("token", [])).strip(), self._token):
                response = RedirectResponse("/", 303, headers=_login_headers())
                response.set_cookie(
                    self._cookie_name(),
                    self._cookie(),
                    max_age=SIGNED_IN_SECONDS,
                    httponly=True,
                    samesite="strict",
                    # Behind a proxy with TLS only the browser knows: it says whence its form is.
                    secure=Headers(scope=scope).get("origin", scope["scheme"]).startswith("https"),
                )
            else:
                await asyncio.sleep(REFUSED_AFTER)
                response = HTMLResponse(
                    _login_page("That is not the token. Try again."), 401, headers=_login_headers()
                )
        else:
            response = HTMLResponse(_login_page(""), headers=_login_headers())
        await response(scope, receive, send)

    # What lies behind -------------------------------------------------------------------------------------------

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._app(scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"
        nonce = secrets.token_urlsafe(16)
        start: Message | None = None
        page = bytearray()

        async def guarded(message: Message) -> None:
            """Set the headers of all that goes out; a page is kept until it is whole, to give its scripts the nonce."""
            nonlocal start
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                is_page = headers.get("content-type", "").startswith("text/html")
                for name, value in _COMMON_HEADERS.items():
                    headers[name] = value
                headers["content-security-policy"] = content_security_policy(nonce if is_page else None)
                if not scope["path"].startswith("/_nicegui/"):
                    headers["cache-control"] = "no-store"
                if is_page:
                    start = message
                    return
            elif start is not None and message["type"] == "http.response.body":
                page.extend(message.get("body", b""))
                if message.get("more_body", False):
                    return
                body = _SCRIPT.sub(rb'\1<script nonce="' + nonce.encode() + b'"', bytes(page))
                headers = MutableHeaders(scope=start)
                headers["content-length"] = str(len(body))
                await send(start)
                message = {"type": "http.response.body", "body": body}
            if is_head and message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # A page has to be readable for the nonce to be set.
        plain = [(name, value) for name, value in scope["headers"] if name != b"accept-encoding"]
        is_asset = scope["path"].startswith("/_nicegui/")
        # FastAPI's routes know no HEAD: it is a GET whose body is left out.
        asked = {**scope, "method": "GET"} if is_head else scope
        await self._app(asked if is_asset else {**asked, "headers": plain}, receive, guarded)


def _equal(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())


def _is_of(origin: str, host: str) -> bool:
    """Whether a page of this origin came from this host."""
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.netloc.lower() == host.lower()


async def _body(receive: Receive, most: int) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        body.extend(message.get("body", b""))
        if len(body) > most or not message.get("more_body", False):
            return bytes(body[:most])


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, reason: str) -> None:
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.close", "code": 1008, "reason": reason})
        return
    headers = dict(_COMMON_HEADERS) | {"content-security-policy": content_security_policy(None)}
    if status == 401:
        headers["www-authenticate"] = 'Bearer realm="headrace monitor"'
    await PlainTextResponse(f"{reason}\n", status, headers=headers)(scope, receive, send)


def _login_headers() -> dict[str, str]:
    return dict(_COMMON_HEADERS) | {
        "content-security-policy": content_security_policy(None),
        "cache-control": "no-store",
    }


def _login_page(problem: str) -> str:
    """The page that asks for the token. All of its text is ours."""
    said = f'<p role="alert">{problem}</p>' if problem else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>Headrace: sign in</title>
<style>
:root {{ font: 16px/1.5 system-ui, sans-serif; }}
body {{ min-height: 90vh; display: grid; place-items: center; margin: 0; }}
main {{ width: min(24rem, 90vw); }}
h1 {{ font-size: 1.5rem; margin: 0 0 .25rem; }}
label {{ display: block; margin-top: 1rem; font-weight: 600; }}
input, button {{ width: 100%; box-sizing: border-box; font: inherit; padding: .6rem .75rem; margin-top: .35rem;
  border-radius: .5rem; border: 1px solid #8889; }}
button {{ margin-top: 1rem; border: 0; background: #0b6e99; color: #fff; font-weight: 600; cursor: pointer; }}
[role=alert] {{ color: #b3261e; font-weight: 600; }}
@media (prefers-color-scheme: dark) {{ [role=alert] {{ color: #ff9a94; }} }}
</style>
</head>
<body>
<main>
<h1>Headrace</h1>
<p>This monitor asks for its token: the one that it was started with.</p>
{said}
<form method="post" action="{LOGIN}">
<label for="token">Token</label>
<input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
<button type="submit">Sign in</button>
</form>
</main>
</body>
</html>
"""


def json_response(body: Any, status: int = 200) -> Response:
    """A body as JSON."""
    return Response(orjson.dumps(body), status, media_type="application/json")
