"""What a viewer has chosen to see; it stands in the address, so that it can be sent to a colleague. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import urlencode

from monitors.records import Severity

TABS: Final[Mapping[str, str]] = {
    "quality": "Quality",
    "alerts": "Alerts",
    "features": "Features and drift",
    "data": "Data and labels",
    "partitions": "Partitions",
    "learner": "Learner",
}
#: Time ranges by name: how they are called, and seconds.
RANGES: Final[Mapping[str, tuple[str, float]]] = {
    "5m": ("5 min", 300.0),
    "15m": ("15 min", 900.0),
    "1h": ("1 h", 3_600.0),
    "6h": ("6 h", 21_600.0),
    "24h": ("24 h", 86_400.0),
    "7d": ("7 d", 604_800.0),
}
KINDS: Final[Mapping[str, str]] = {"drift": "Drift", "warning": "Warning", "incident": "Incident"}
SEVERITIES: Final[Mapping[Severity, str]] = {"critical": "Critical", "warning": "Warning", "info": "Info"}

_METRIC: Final = re.compile(r"[a-z0-9_]{1,60}")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What is chosen on a pipeline's page."""

    tab: str = "quality"
    #: "": the shortest that has all there is, up to an hour.
    range: str = ""
    #: None: all partitions.
    partition: int | None = None
    #: None: the pipeline's first.
    metric: str | None = None
    #: Of the alert list; none: all.
    kinds: tuple[str, ...] = ()
    severities: tuple[str, ...] = ()
    text: str = ""
    #: Of the alert list: only those of the time range.
    in_range: bool = False

    @property
    def seconds(self) -> float:
        """The time range."""
        return RANGES[self.range or "1h"][1]

    def resolved(self, known_seconds: float) -> View:
        """With a time range, where none was chosen.

        Args:
            known_seconds: For so long something is known.

        Example:
            >>> View().resolved(60.0).range, View().resolved(1e6).range, View(range="7d").resolved(60.0).range
            ('5m', '1h', '7d')
        """
        if self.range:
            return self
        fits = (name for name, (_, seconds) in RANGES.items() if seconds >= min(known_seconds, 3_600.0))
        return replace(self, range=next(fits))

    @property
    def filters_alerts(self) -> bool:
        """Whether the alert list leaves some out."""
        return bool(self.kinds or self.severities or self.text or self.in_range or self.partition is not None)

    def query(self) -> str:
        """As the query of an address, what is not chosen left out.

        Example:
            >>> View(tab="alerts", kinds=("drift",), partition=3).query()
            '?tab=alerts&partition=3&kind=drift'
            >>> View.of({"tab": "alerts", "partition": "3", "kind": "drift"}) == View(
            ...     tab="alerts", kinds=("drift",), partition=3
            ... )
            True
        """
        chosen = {
            "tab": "" if self.tab == "quality" else self.tab,
            "range": self.range,
            "partition": "" if self.partition is None else str(self.partition),
            "metric": self.metric or "",
            "kind": ",".join(self.kinds),
            "severity": ",".join(self.severities),
            "text": self.text,
            "when": "range" if self.in_range else "",
        }
        query = urlencode({name: value for name, value in chosen.items() if value}, safe=",")
        return f"?{query}" if query else ""

    @classmethod
    def of(cls, query: Mapping[str, str]) -> View:
        """From the query of an address; what makes no sense there is left out."""
        partition = query.get("partition", "")
        metric = query.get("metric", "")
        return cls(
            tab=query["tab"] if query.get("tab") in TABS else "quality",
            range=query["range"] if query.get("range") in RANGES else "",
            partition=int(partition)
            if partition.isascii() and partition.isdigit() and len(partition) < 7
            else None,
            metric=metric if _METRIC.fullmatch(metric) else None,
            kinds=tuple(kind for kind in KINDS if kind in query.get("kind", "").split(",")),
            severities=tuple(name for name in SEVERITIES if name in query.get("severity", "").split(",")),
            text=query.get("text", "")[:100],
            in_range=query.get("when") == "range",
        )
