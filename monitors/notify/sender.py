"""Sending a message to one address of Apprise: the only module that knows Apprise.

An address holds secrets, and so may what Apprise and the libraries below it log or raise. So none of their texts leaves
this module: a failure is told in words of our own.
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import TYPE_CHECKING, Final

from monitors.notify.notices import Message

if TYPE_CHECKING:
    from apprise import Apprise, AppriseAsset, NotifyBase

#: Seconds that a message may take: as much as Apprise itself gives a service.
TIMEOUT: Final = 60.0
#: Seconds that a web service may take to answer, unless its address says `rto`. Apprise's 4 are short: what took the
#: message and answered late would get it again and again.
READ_TIMEOUT: Final = 20.0
#: Attempts of one channel that may hang at the same time. A thread can't be stopped; more than that would leak.
MOST_HANGING: Final = 3

#: Loading the services and making one is not for two threads at once.
_loading = threading.Lock()


class Sender:
    """Sends messages to one address, each in a thread of its own, so that a service that hangs delays nobody else.

    Args:
        url: The address, with its secrets.
        timeout_seconds: How long a message may take; after that it counts as not sent, though it may arrive still.
    """

    def __init__(self, url: str, timeout_seconds: float = TIMEOUT) -> None:
        self._url = url
        self._timeout_seconds = timeout_seconds
        self._threads: list[threading.Thread] = []

    async def send(self, message: Message) -> str | None:
        """Send it; return why that failed, or None."""
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= MOST_HANGING:
            return f"{len(self._threads)} earlier attempts still hang"
        loop = asyncio.get_running_loop()
        done: asyncio.Future[str | None] = loop.create_future()

        def finish(reason: str | None) -> None:
            if not done.done():
                done.set_result(reason)

        def work() -> None:
            reason = send(self._url, message)
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(finish, reason)

        # Not asyncio.to_thread: its threads are shared with others, and would hold up the end of the process.
        thread = threading.Thread(target=work, name="notification", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # no room for another thread; the channel must live to try again
            return "this machine refused a thread"
        self._threads.append(thread)
        try:
            async with asyncio.timeout(self._timeout_seconds):
                return await done
        except TimeoutError:
            return f"no answer within {self._timeout_seconds:g} seconds"


def send(url: str, message: Message) -> str | None:
    """Send a message and wait for the answer; return why that failed, or None."""
    try:
        apprise = _apprise()
        from apprise import NotifyFormat, NotifyType  # noqa: PLC0415

        with _loading:
            service = _service(url, apprise.asset)
        if service is None:
            return f"the address {problems(url)[0]}"
        apprise.add(_prepared(service))
        kinds = {"info": NotifyType.INFO, "warning": NotifyType.WARNING, "critical": NotifyType.FAILURE}
        result = apprise.notify(
            body=message.body,
            title=message.title,
            notify_type=NotifyType.SUCCESS if message.is_over else kinds[message.severity],
            body_format=NotifyFormat.TEXT,  # where a service takes HTML or Markdown, the text is escaped
            log_level=logging.WARNING,
        )
        return None if result else _reason([entry.message for entry in result.logs()])
    except Exception as error:  # of a service's own code; its text may hold the address
        return f"it failed with {type(error).__name__}"


def problems(url: str) -> Sequence[str]:
    """Say what is wrong with an address, without sending anything and without showing it; nothing if it is fine.

    The sentences go on after the name of a setting: `is no address; expected ...`.
    """
    scheme = scheme_of(url)
    if scheme is None:
        return ['is no address; expected one such as "jsons://host/path" or "slack://...".']
    apprise = _apprise()
    from apprise.apprise import N_MGR as known  # noqa: PLC0415  # every service by its scheme

    with _loading:
        if _service(url, apprise.asset) is not None:
            return []
        if scheme not in known:
            if scheme in ("http", "https"):
                hint = f'for a webhook of your own write "json{"s" * (scheme == "https")}://host/path".'
                return [f'begins with "{scheme}://" and is that of no service that Apprise knows; {hint}']
            near = get_close_matches(scheme, known.schemas(), n=1)  # type: ignore[no-untyped-call]
            hint = f'; did you mean "{near[0]}://"?' if near else "."
            return [f'begins with "{scheme}://", which Apprise does not know{hint}']
        service = known[scheme]
        needed = service.requirements.get("packages_required") if not service.enabled else None
    if needed:
        names = needed if isinstance(needed, str) else ", ".join(needed)
        return [f'begins with "{scheme}://", for which a package is missing: pip install "{names}"']
    where = f"; see {service.setup_url}" if service.setup_url else ""
    return [f'is not as Apprise needs it for "{scheme}://"{where}']


def scheme_of(url: str) -> str | None:
    """Return what an address begins with, which is no secret. None: it is no address.

    >>> scheme_of("Slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ"), scheme_of("secret")
    ('slack', None)
    """
    match = re.match(r"\s*([a-z][a-z0-9+.-]{0,19})://", url, re.IGNORECASE)
    return match[1].lower() if match else None


def service_name(url: str) -> str | None:
    """Return the name of the service that an address leads to, such as `Slack`. None: there are `problems`."""
    apprise = _apprise()
    with _loading:
        service = _service(url, apprise.asset)
    return None if service is None else str(service.service_name)


def _apprise() -> Apprise:
    """Return an Apprise that works in the calling thread and keeps what it logs to itself."""
    import apprise  # noqa: PLC0415  # it takes a moment, and who sends nothing need not have it

    # It logs addresses at debug level, and so does the library below most of its services.
    logger = logging.getLogger("apprise")
    logger.propagate = False
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    logging.getLogger("urllib3").setLevel(logging.WARNING)
    return apprise.Apprise(
        asset=apprise.AppriseAsset(
            app_id="Headrace",
            app_desc="Headrace",
            async_mode=False,
            service_timeout=0,  # the time limit is ours: theirs shares its threads among all services
            http_redirects=False,  # a redirected POST becomes a GET: it succeeds, and nothing was said
            interpret_emojis=False,
            secure_logging=True,
        )
    )


def _service(url: str, asset: AppriseAsset) -> NotifyBase | None:
    from apprise import Apprise  # noqa: PLC0415

    return Apprise.instantiate(url.strip(), asset=asset)


def _prepared(service: NotifyBase) -> NotifyBase:
    """Set what an address must not change, and what Apprise has other defaults for."""
    from apprise import OverflowMode  # noqa: PLC0415

    service.optional = False  # `?optional=yes` would call every failure a success
    if service.overflow_mode == OverflowMode.UPSTREAM:
        service.overflow_mode = (
            OverflowMode.SPLIT
        )  # a service that refuses what is too long would never take it
    if service.socket_read_timeout == type(service).socket_read_timeout:
        service.socket_read_timeout = max(service.socket_read_timeout, READ_TIMEOUT)
    return service


def _reason(logged: Sequence[str]) -> str:
    """Say why a service did not take a message, by what Apprise logged, without a word of it but the status."""
    for line in logged:
        match = re.search(r"error=([1-5]\d\d)\b", line)
        if match:
            return f"the service answered {match[1]}"
    if any("connection error" in line.lower() for line in logged):
        return "no connection, or it was cut or refused"
    return "the service did not take it"
