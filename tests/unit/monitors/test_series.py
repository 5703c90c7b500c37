from __future__ import annotations

import math

import pytest

from monitors.fleet import Series
from monitors.fleet.series import MOST_COLUMNS, TIERS, Tier

#: Small, so that all of them overflow: 6 cells of 1 s, 6 of 5 s, 6 of 20 s.
SMALL = (Tier(1.0, 6.0), Tier(5.0, 30.0), Tier(20.0, 120.0))


def filled(times: list[float], tiers: tuple[Tier, ...] = SMALL) -> Series:
    series = Series(tiers)
    for time in times:
        series.add(time, {"a": time})
    return series


def read(
    series: Series, name: str = "a", *, since: float = 0.0, until: float = math.inf, step: float = 1.0
) -> dict[float, float | None]:
    times, figures = series.read([name], since=since, until=until, step_seconds=step)
    return {
        time: None if math.isnan(figure) else figure
        for time, figure in zip(times.tolist(), figures[:, 0].tolist(), strict=True)
    }


# --- Cells -----------------------------------------------------------------------------------------------


def test_a_cell_is_the_mean_of_what_fell_into_it() -> None:
    series = Series((Tier(10.0, 100.0),))
    for time, figure in [(20.0, 1.0), (22.0, 2.0), (29.9, 6.0), (30.0, 7.0)]:
        series.add(time, {"a": figure})

    assert read(series) == {20.0: 3.0, 30.0: 7.0}
    assert read(series, step=20.0) == {20.0: 5.0}


def test_what_is_not_known_is_left_out_of_the_mean() -> None:
    series = Series((Tier(10.0, 100.0),))
    series.add(20.0, {"a": None, "b": 1.0})
    series.add(22.0, {"a": 4.0})
    series.add(30.0, {"a": None})

    assert read(series) == {20.0: 4.0, 30.0: None}
    assert read(series, "b") == {20.0: 1.0, 30.0: None}
    assert read(series, "no such column") == {20.0: None, 30.0: None}


@pytest.mark.parametrize("figure", [math.nan, math.inf, -math.inf, 1.5e308])
def test_a_figure_that_no_chart_can_show_is_not_known(figure: float) -> None:
    series = Series((Tier(10.0, 100.0),))
    for _ in range(3):
        series.add(20.0, {"a": figure, "b": 1.0})

    assert read(series) == {20.0: None}
    assert read(series, "b") == {20.0: 1.0}


def test_a_time_before_the_last_falls_into_the_last_cell() -> None:
    series = Series((Tier(10.0, 100.0),))
    for time, figure in [(20.0, 1.0), (30.0, 2.0), (5.0, 4.0), (31.0, 6.0)]:
        series.add(time, {"a": figure})

    assert read(series) == {20.0: 1.0, 30.0: 4.0}


def test_a_column_that_comes_later_is_not_known_before() -> None:
    series = Series((Tier(10.0, 1_000.0),))
    for number in range(100):  # past the first size of the ring
        series.add(10.0 * number, {"a": 1.0} | ({"b": 2.0} if number >= 95 else {}))

    assert read(series, "b", since=930.0) == {930.0: None, 940.0: None} | dict.fromkeys(
        (950.0, 960.0, 970.0, 980.0, 990.0), 2.0
    )


def test_there_are_never_more_than_so_many_columns() -> None:
    series = Series((Tier(10.0, 100.0),))
    series.add(0.0, {str(number): 1.0 for number in range(2 * MOST_COLUMNS)})

    assert len(series.columns) == MOST_COLUMNS
    assert read(series, str(MOST_COLUMNS - 1)) == {0.0: 1.0}
    assert read(series, str(MOST_COLUMNS)) == {0.0: None}


# --- Tiers -----------------------------------------------------------------------------------------------


def test_the_thickest_tier_that_reaches_back_is_read() -> None:
    series = filled([float(second) for second in range(100)])

    assert list(read(series, since=94.0)) == [94.0, 95.0, 96.0, 97.0, 98.0, 99.0]
    assert list(read(series, since=70.0)) == [70.0, 75.0, 80.0, 85.0, 90.0, 95.0]
    assert list(read(series, since=0.0)) == [0.0, 20.0, 40.0, 60.0, 80.0]


def test_the_thinnest_tier_is_read_when_none_reaches_back() -> None:
    series = filled([float(second) for second in range(1_000)])

    assert list(read(series, since=0.0)) == [880.0, 900.0, 920.0, 940.0, 960.0, 980.0]


def test_a_short_history_is_read_as_thick_as_it_is() -> None:
    series = filled([100.0, 101.0, 102.0])

    assert read(series, since=0.0) == {100.0: 100.0, 101.0: 101.0, 102.0: 102.0}


def test_only_what_was_asked_for_is_returned() -> None:
    series = filled([100.0, 101.0, 102.0, 103.0])

    assert list(read(series, since=101.0, until=102.0)) == [101.0, 102.0]
    assert read(Series(), since=0.0) == {}
    assert read(series, since=500.0) == {}


def test_memory_is_bounded_by_the_tiers() -> None:
    series = Series()
    cells = sum(int(tier.kept_seconds / tier.step_seconds) for tier in TIERS)

    for number in range(20_000):
        series.add(600.0 * number, {"a": 1.0})

    assert len(series) == cells < 4_500
