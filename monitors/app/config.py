"""What `headrace monitor` is told: plain values, from whoever has read the settings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any, Final

from monitors.fleet import Bounds, PipelineFacts
from monitors.notify import ChannelConfig

#: Seconds for which a page may lose its connection, by a stall of this machine or by the network, and go on as it is.
#: After that it is loaded anew, and what its viewer has just pressed is forgotten.
RECONNECT_SECONDS: Final = 10.0
#: Shortest token: 128 bits as hexadecimal digits are 32, as URL-safe base64 22.
MIN_TOKEN: Final = 22
#: What a token may be made of, so that it goes through headers and forms as it is.
_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchedPipeline:
    """One pipeline to watch."""

    facts: PipelineFacts
    #: Keyword arguments of aiokafka's clients, secrets in clear.
    connection: Mapping[str, Any] = field(repr=False)
    #: When the watchdogs bark.
    bounds: Bounds
    #: Whom to tell.
    channels: Sequence[ChannelConfig] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class MonitorConfig:
    """All that the monitor is told.

    Raises:
        ValueError: A pipeline is given twice, the address is not loopback and there is no token, or the token is
            weak.
    """

    pipelines: Sequence[WatchedPipeline]
    #: Address and port to listen at.
    host: str = "127.0.0.1"
    port: int = 8800
    #: Who knows it may look; None: everybody who reaches the address.
    token: str | None = field(default=None, repr=False)
    #: Names under which browsers reach it, beside addresses, `localhost` and `host`.
    names: Sequence[str] = ()
    version: str = ""

    def __post_init__(self) -> None:
        names = [pipeline.facts.name for pipeline in self.pipelines]
        for name in dict.fromkeys(name for name in names if names.count(name) > 1):
            raise ValueError(f"the pipeline {name!r} is given twice; expected each name once.")
        if self.token is None and not is_loopback(self.host):
            raise ValueError(
                f"the address {self.host} can be reached from other machines and there is no token; set "
                "HEADRACE_MONITOR_TOKEN or --token-file (make one: openssl rand -hex 32), or listen at 127.0.0.1."
            )
        if self.token is not None:
            if len(self.token) < MIN_TOKEN or len(set(self.token)) < 8:
                raise ValueError(
                    f"the token is too easy to guess; expected at least 128 random bits, {MIN_TOKEN} characters or "
                    "more (make one: openssl rand -hex 32)."
                )
            if not _TOKEN.fullmatch(self.token):
                raise ValueError(
                    "the token has characters that a header can't carry; expected letters, digits and ._~+/=- only "
                    "(make one: openssl rand -hex 32)."
                )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
