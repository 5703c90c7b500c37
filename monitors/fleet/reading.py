"""What lies on the status and alerts topics, read with suspicion: anybody may write there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, TypeVar

import orjson
from pydantic import TypeAdapter, ValidationError

from monitors.labels import LABEL_COUNTS
from monitors.records import Alert, Incident, Status

#: Longest record that is looked at, bytes.
MOST_BYTES: Final = 1_000_000
#: Longest name in an alert or incident that is taken, and longest sentence: the rest of one is cut off.
MOST_NAME: Final = 300
MOST_TEXT: Final = 2_000
#: Most metrics, classes, stages, drift watches, bins and incidents of a status, each. Workers write 21 classes at most.
MOST_ENTRIES: Final = 500
#: Largest partition as Kafka has them, and largest count: sums of so many stay within what JSON carries.
MOST_PARTITION: Final = 2**31 - 1
MOST_COUNT: Final = 2**52
#: First and last moment that calendars have, epoch seconds: years 1 and 9999.
FIRST_TIME: Final = -62_135_596_800.0
LAST_TIME: Final = 253_402_300_799.0
#: Longest sentence about what is unreadable, characters.
MOST_REASON: Final = 300
#: Fields that came later, with what a record of an older worker means by leaving them out.
CAME_LATER: Final[Mapping[str, Mapping[str, object]]] = {
    "status": {
        **dict.fromkeys(LABEL_COUNTS, 0),
        "duplicates": 0,
        "ignored": 0,
        "label_health": {},
        "label_delay": None,
        "label_delay_histogram": None,
        "dead_letters_by_stage": {},
        "classes": None,
        "learner_seconds": None,
        "incidents": None,
    },
    "incident": {"severity": "warning"},
}

T = TypeVar("T")

#: The counters of a status.
_COUNTS: Final = (
    "offset",
    "end",
    "lag_records",
    "events",
    "predictions",
    "learned",
    "scored",
    "dead_letters",
    *LABEL_COUNTS,
    "ignored",
    "duplicates",
    "non_finite",
    "window",
)

_STATUS: Final = TypeAdapter(Status)
_ALERT: Final = TypeAdapter(Alert)
_INCIDENT: Final = TypeAdapter(Incident)


class Unreadable(ValueError):
    """A record is not what its topic is for: another program wrote it."""

    def __str__(self) -> str:
        said = super().__str__()
        return said if len(said) <= MOST_REASON else f"{said[: MOST_REASON - 1]}…"


def read_status(value: bytes | None) -> Status:
    """Read a status record.

    Raises:
        Unreadable: It is none.
    """
    status = _validated(_STATUS, {**CAME_LATER["status"], **_object(value)})
    if not 0 <= status.partition <= MOST_PARTITION:
        raise Unreadable(
            f"it is of partition {status.partition}; expected 0 or more, at most {MOST_PARTITION}"
        )
    _plausible(status)
    snapshot = status.snapshot
    if snapshot is not None:
        snapshot = replace(snapshot, time=_moment(snapshot.time))
    return replace(status, time=_moment(status.time), snapshot=snapshot)


def read_alert(value: bytes | None) -> Alert | Incident:
    """Read a record of the alerts topic.

    Raises:
        Unreadable: It is neither an alert nor an incident.
    """
    body = _object(value)
    if body.get("kind") != "incident":
        alert = _validated(_ALERT, body)
        _named(watch=alert.watch, detector=alert.detector)
        return replace(alert, time=_moment(alert.time))
    incident = _validated(_INCIDENT, {**CAME_LATER["incident"], **body})
    _named(incident=incident.incident, worker=incident.worker)
    return replace(incident, text=incident.text[:MOST_TEXT], time=_moment(incident.time))


def _moment(time: float) -> float:
    """A time that can be shown: events may bear any number as theirs."""
    return min(LAST_TIME, max(FIRST_TIME, time))


def _plausible(status: Status) -> None:
    """Refuse figures that no worker has: what is made from them must fit into memory and into JSON."""
    classes, histogram = status.classes or {}, status.label_delay_histogram or {}
    snapshot = () if status.snapshot is None else (status.snapshot.offset, status.snapshot.bytes)
    counts = [
        *(value for name in _COUNTS if (value := getattr(status, name)) is not None),
        *status.dead_letters_by_stage.values(),
        *(count for of in classes.values() for count in of.values()),
        *histogram.get("counts", ()),
        *snapshot,
    ]
    odd = next((count for count in counts if abs(count) > MOST_COUNT), None)
    if odd is not None:
        raise Unreadable(f"it counts {odd}; expected at most {MOST_COUNT}")
    many = (status.metrics, status.baselines, status.dead_letters_by_stage, status.drift, classes, histogram)
    names = status.incidents or ()
    most = max(map(len, (*many, names, status.label_health, *classes.values(), *histogram.values())))
    if most > MOST_ENTRIES:
        raise Unreadable(
            f"it has {most:,} metrics, classes, stages, watches, bins or incidents; expected at most {MOST_ENTRIES}"
        )
    if histogram:
        bounds, bins = list(histogram.get("bounds", ())), histogram.get("counts", ())
        if len(bins) != len(bounds) + 1 or bounds != sorted(bounds) or min(bins) < 0:
            raise Unreadable(
                "field 'label_delay_histogram' is none; expected bounds that rise, and one count more than those"
            )
    if status.label_delay and not {"p50", "p95"} <= status.label_delay.keys():
        raise Unreadable("field 'label_delay' lacks p50 or p95; expected both")


def _object(value: bytes | None) -> dict[str, Any]:
    if value is None:
        raise Unreadable("it has no value; expected a JSON object")
    if len(value) > MOST_BYTES:
        raise Unreadable(f"it has {len(value):,} bytes; expected at most {MOST_BYTES:,}")
    try:
        body = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON ({error})") from error
    if not isinstance(body, dict):
        raise Unreadable(f"it is a JSON {type(body).__name__}; expected an object")
    return body


def _named(**names: str) -> None:
    for field, name in names.items():
        if len(name) > MOST_NAME:
            raise Unreadable(f"field {field!r} has {len(name):,} characters; expected at most {MOST_NAME}")


def _validated(adapter: TypeAdapter[T], body: Mapping[str, Any]) -> T:
    """As JSON and strictly: `"nan"` is a text then, not a number, and `true` is not the partition 1."""
    try:
        return adapter.validate_json(orjson.dumps(body), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        more = f" and {error.error_count() - 1} more" if error.error_count() > 1 else ""
        raise Unreadable(f"field {where!r}: {first['msg']}{more}") from error
