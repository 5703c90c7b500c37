"""`headrace watch`: predictions, alerts and dead letters as they come."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import Any, Final, Literal, NamedTuple

import orjson

from stream.errors import EnvironmentRefused
from stream.records import position
from stream.settings import Settings
from stream.tools.cluster import Cluster, Found, Reader

Output = Literal["prediction", "alert", "dead_letter"]

#: How much of a dead letter is shown, characters.
SHOWN_CHARACTERS: Final = 200
#: Seconds between two looks at whether to stop.
POLL_SECONDS: Final = 0.5


class Seen(NamedTuple):
    """An output that was read."""

    output: Output
    #: What it says, as `--json` prints it.
    body: dict[str, Any]


def watch(settings: Settings, *, from_beginning: bool) -> Generator[Seen | None]:
    """Outputs as they come, for ever; None now and then when nothing comes. Only what is committed is seen.

    Raises:
        EnvironmentRefused: A topic is missing, or the broker is away.
    """
    topics: dict[str, Output] = {
        settings.topics.predictions: "prediction",
        settings.topics.alerts: "alert",
        settings.topics.dead_letters: "dead_letter",
    }
    with Cluster(settings) as cluster:
        found = cluster.topics(topics)
    missing = [name for name in topics if name not in found]
    if missing:
        raise EnvironmentRefused(
            f"there is no topic {', '.join(repr(name) for name in missing)}. "
            f"Make it: headrace topics create {settings.path}"
        )
    partitions = [(name, partition) for name, facts in found.items() for partition in range(facts.partitions)]
    with Reader(settings, partitions) as reader:
        if from_beginning:
            reader.seek_to_beginning()
        else:
            reader.seek_to_end()
        yield None
        while True:
            records = reader.poll(POLL_SECONDS)
            for record in records:
                yield Seen(topics[record.topic], body_of(topics[record.topic], record))
            if not records:
                yield None


def body_of(output: Output, record: Found) -> dict[str, Any]:
    """What an output says, ready for JSON."""
    if output == "dead_letter":
        return {"output": output, **_dead_letter(record)}
    try:
        body = orjson.loads(record.value or b"")
    except orjson.JSONDecodeError:
        body = None
    if not isinstance(body, dict):
        where = position(record.topic, record.partition, record.offset)
        body = {"problem": f"{where} is no {output}: somebody else wrote it"}
    return {"output": output, "key": _text(record.key), **body}


def _dead_letter(record: Found) -> dict[str, Any]:
    ours: Mapping[str, str | None] = {  # the last of each name is ours; the event may have brought its like
        name.removeprefix("headrace."): _text(value)
        for name, value in record.headers
        if name.startswith("headrace.")
    }
    keys = ("position", "stage", "error", "message")
    return {
        **{key: ours.get(key) for key in keys},
        "key": _text(record.key),
        "value": _text(record.value),
    }


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def printable(text: object) -> str:
    """A text of unknown origin without what would move the cursor or change colours.

    >>> print(printable("a\\x1b[2Jb\\nc"))
    a\\x1b[2Jb\\nc
    """
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def line_of(seen: Seen, topic: str) -> str:
    """An output as a line for people.

    Args:
        seen: The output.
        topic: The events topic, for positions.

    Example:
        >>> body = {"partition": 0, "offset": 7, "prediction": True, "scores": {"true": 0.9}, "learned": 7}
        >>> line_of(Seen("prediction", body), "clicks")
        'clicks[0]@7  true (0.900)  learned 7'
    """
    body = seen.body
    if "problem" in body:
        return printable(body["problem"])
    if seen.output == "dead_letter":
        value = body["value"] or ""
        shown = value[:SHOWN_CHARACTERS] + ("…" if len(value) > SHOWN_CHARACTERS else "")
        return printable(f"{body['position']}  DEAD LETTER  {body['stage']}: {body['message']}  {shown}")
    where = position(topic, body.get("partition", -1), body.get("offset", -1))
    if body.get("kind") == "incident":
        state = "INCIDENT" if body.get("state") == "open" else "incident over"
        return printable(f"{where}  {state}  {body.get('incident')}: {body.get('text')}")
    if seen.output == "alert":
        return printable(
            f"{where}  {str(body.get('kind')).upper()}  {body.get('watch')} by {body.get('detector')}: "
            f"mean {_figure(body.get('mean_before'))} before, {_figure(body.get('mean_after'))} after"
        )
    name = f"  {body['id']}:" if body.get("id") is not None else ""
    scores = body.get("scores") or {}
    top = f" ({max(scores.values()):.3f})" if scores else ""
    return printable(f"{where}{name}  {_shown(body.get('prediction'))}{top}  learned {body.get('learned')}")


def _shown(prediction: object) -> str:
    if prediction is None:
        return "no prediction yet"
    if isinstance(prediction, bool):
        return str(prediction).lower()
    return f"{prediction:.6g}" if isinstance(prediction, float) else str(prediction)


def _figure(value: float | None) -> str:
    return "?" if value is None else f"{value:.4g}"
