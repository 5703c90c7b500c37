"""What a relayed record says about itself, in three headers behind its own."""

from __future__ import annotations

from typing import Final

from stream.records import Headers, position

#: Always these three, together and in this order; the last three count, if a record was relayed again.
PIPELINE: Final = "headrace.relay.pipeline"
KIND: Final = "headrace.relay.kind"
POSITION: Final = "headrace.relay.position"
#: As they stand in a header.
EVENTS: Final = b"events"
LABELS: Final = b"labels"


def relay_headers(
    pipeline: bytes, kind: bytes, topic: str, partition: int, offset: int
) -> list[tuple[str, bytes | None]]:
    """The headers that the relay writes behind a record's own.

    Example:
        >>> relay_headers(b"fraud", LABELS, "chargebacks", 0, 7)[1:]
        [('headrace.relay.kind', b'labels'), ('headrace.relay.position', b'chargebacks[0]@7')]
    """
    return [(PIPELINE, pipeline), (KIND, kind), (POSITION, position(topic, partition, offset).encode())]


def relayed_for(headers: Headers) -> tuple[bytes, bytes, bytes] | None:
    """Pipeline, kind and source position of a relayed record; None for one that was not relayed.

    Headers of those names that are not as the relay writes them are somebody else's.

    Example:
        >>> relayed_for([("trace", b"1"), *relay_headers(b"fraud", LABELS, "chargebacks", 0, 7)])
        (b'fraud', b'labels', b'chargebacks[0]@7')
        >>> relayed_for([(PIPELINE, b"fraud")]) is None
        True
    """
    for end in range(len(headers), 2, -1):  # a replayed dead letter has more behind them
        name, at = headers[end - 1]
        if name != POSITION:
            continue
        (first, pipeline), (second, kind) = headers[end - 3], headers[end - 2]
        if first == PIPELINE and second == KIND and pipeline and at and kind in (EVENTS, LABELS):
            return pipeline, kind, at
    return None
