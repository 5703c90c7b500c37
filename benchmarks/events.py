"""The events that are measured with: 10 numeric features and a binary label, the same ones every time."""

from __future__ import annotations

import random
from collections.abc import Iterator

import orjson

FEATURES = 10
#: Share of labels that are turned round, so that no model can be right all the time.
NOISE = 0.1


def event_bytes(count: int, seed: int = 7) -> Iterator[bytes]:
    """So many events as JSON.

    Example:
        >>> body = orjson.loads(next(event_bytes(1)))
        >>> sorted(body), len(body["features"]), type(body["label"])
        (['features', 'id', 'label'], 10, <class 'bool'>)
    """
    rng = random.Random(seed)
    weights = [rng.gauss(0.0, 1.0) for _ in range(FEATURES)]
    for number in range(count):
        yield event(f"{number:08d}", rng, weights)


def event(event_id: str, rng: random.Random, weights: list[float]) -> bytes:
    """One event; its label is a linear function of its features, with noise."""
    values = [round(rng.gauss(5.0, 2.0), 4) for _ in weights]
    above = sum(w * (v - 5.0) for w, v in zip(weights, values, strict=True)) > 0
    return orjson.dumps(
        {
            "id": event_id,
            "features": {f"f{i}": value for i, value in enumerate(values)},
            "label": above is not (rng.random() < NOISE),
        }
    )
