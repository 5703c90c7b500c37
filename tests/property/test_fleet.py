from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from monitors import Alert, Incident, Status
from monitors.fleet import PipelineState, Series, Unreadable, read_alert, read_status
from monitors.fleet.fleet import TopicKind
from monitors.fleet.series import Tier
from tests.unit.monitors.fleet_cases import DRIFT, FACTS, INCIDENT, STATUS, record

# --- Series ----------------------------------------------------------------------------------------------

Point = tuple[float, dict[str, float]]

#: Times go on, stand still or go back; figures come and go.
STEPS = st.lists(
    st.tuples(
        st.sampled_from([-3.0, 0.0, 0.4, 1.0, 2.5, 5.0, 12.0]),
        st.dictionaries(st.sampled_from("abc"), st.integers(-100, 100).map(float), max_size=3),
    ),
    max_size=150,
)
#: The last one's ring grows; the others are smaller than the first size of a ring.
TIERS = st.sampled_from([Tier(1.0, 6.0), Tier(5.0, 30.0), Tier(20.0, 120.0), Tier(1.0, 100.0)])


def naive(points: list[Point], tier: Tier) -> list[Point]:
    """The last cells of a tier: where they begin, and the means."""
    cells: list[tuple[float, list[dict[str, float]]]] = []
    for time, figures in points:
        beginning = math.floor(time / tier.step_seconds) * tier.step_seconds
        if not cells or beginning > cells[-1][0]:
            cells.append((beginning, []))
        cells[-1][1].append(figures)
    found = []
    for beginning, rows in cells[-int(tier.kept_seconds / tier.step_seconds) :]:
        known = {name: [row[name] for row in rows if name in row] for name in "abc"}
        found.append((beginning, {name: sum(k) / len(k) for name, k in known.items() if k}))
    return found


@given(steps=STEPS, tier=TIERS, since=st.sampled_from([0.0, 1_003.0, 1_050.0]))
def test_a_tier_holds_what_a_plain_list_would(steps: list[Point], tier: Tier, since: float) -> None:
    series, points, now = Series((tier,)), [], 1_000.0
    for step, figures in steps:
        now += step
        points.append((now, figures))
        series.add(now, figures)

    times, rows = series.read(list("abc"), since=since, until=math.inf, step_seconds=tier.step_seconds)

    expected = [point for point in naive(points, tier) if point[0] >= since]
    assert times.tolist() == [beginning for beginning, _ in expected]
    for row, (_, means) in zip(rows, expected, strict=True):
        assert np.allclose(row, [means.get(name, math.nan) for name in "abc"], equal_nan=True)


# --- Reading ---------------------------------------------------------------------------------------------

VALUES = st.sampled_from(
    [
        *("", "x", "nan", "1", True, None, 0, -1, 7, 2**63, 2**70, 10**400, 0.5, 1e300, math.nan, math.inf),
        *([], {}, [1, "x"], {"a": 1}, {"": {"value": math.nan}}, {"a": {"value": 1e308, "window": None}}),
        [{"watch": 1, "mean_now": 1e308}],
    ]
)
NAMES = st.sampled_from([item.name for noun in (Status, Alert, Incident) for item in fields(noun)])


@st.composite
def hostile(draw: st.DrawFn) -> bytes:
    """A record of ours with any fields, cut anywhere; or just any bytes."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=50))
    body = draw(st.sampled_from([noun.to_dict() for noun in (STATUS, DRIFT, INCIDENT)]))
    body |= draw(st.dictionaries(NAMES, VALUES, max_size=3))
    value = json.dumps(body).encode()
    return value if draw(st.booleans()) else value[: draw(st.integers(0, len(value)))]


@given(value=hostile())
def test_what_is_read_is_a_record_and_nothing_but_unreadable_is_raised(value: bytes) -> None:
    kinds: list[tuple[Callable[[bytes], Status | Alert | Incident], tuple[type, ...]]] = [
        (read_status, (Status,)),
        (read_alert, (Alert, Incident)),
    ]
    for read, nouns in kinds:
        try:
            found = read(value)
        except Unreadable as error:
            said = str(error)
        else:
            said = json.dumps(found.to_dict(), allow_nan=False)
            assert type(found) in nouns
        assert said


# --- Fleet -----------------------------------------------------------------------------------------------


@given(
    values=st.lists(
        st.tuples(
            st.sampled_from(["status", "alerts"]),
            hostile() | st.sampled_from([record(STATUS), record(DRIFT), record(INCIDENT), None]),
        ),
        max_size=20,
    )
)
def test_every_record_is_counted_once_whatever_it_is(values: list[tuple[TopicKind, bytes | None]]) -> None:
    pipeline = PipelineState(FACTS)

    applied = [
        pipeline.apply(kind, 0, offset, value, seen_at=1_000_000.0)
        for offset, (kind, value) in enumerate(values)
    ]

    assert applied.count("unreadable") == pipeline.unreadable
    assert bool(pipeline.last_unreadable) == (pipeline.unreadable > 0)
    assert len(pipeline.alerts) == applied.count("alert") + applied.count("incident")
    assert pipeline.version == len(values)


@given(
    growth=st.lists(
        st.tuples(st.sampled_from([0, 1, 50, -30, -10_000]), st.sampled_from([-90.0, 5.0, 5.0, 5.0, 60.0])),
        max_size=80,
    ),
    seconds=st.sampled_from([0.0, 60.0, 600.0]),
)
def test_counters_never_fall_within_what_is_kept(growth: list[tuple[int, float]], seconds: float) -> None:
    """Whatever falls back, by a crash, a reset or another machine's clock: no growth is below zero."""
    pipeline, events, time = PipelineState(FACTS), 1_000, 1_000_000.0
    for offset, (more, later) in enumerate(growth):
        events, time = max(0, events + more), time + later
        value = record(STATUS, events=events, learned=events // 2, time=time)
        pipeline.apply("status", 0, offset, value, seen_at=time)

        item = pipeline.partitions[0]
        now, before = item.grown(seconds)
        assert all(b <= n for b, n in zip(before, now, strict=True))
        assert (now.events, now.time) == (events, time)
        kept = list(item.counters)
        assert kept == sorted(kept)
        assert item.began is not None
        assert not item.began.is_ahead_of(now)
        for last in (item.last_event, item.last_learned):
            assert last is None or not last.is_ahead_of(now)
