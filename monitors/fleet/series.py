"""Figures over time in bounded memory: the older, the thinner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64]

#: Most columns of one series; more are left out.
MOST_COLUMNS: Final = 68
#: A figure beyond this is taken for not known: the sum of a cell must stay finite.
MOST_FIGURE: Final = 1e100


class Tier(NamedTuple):
    """How thin, and for how long."""

    step_seconds: float
    kept_seconds: float


#: Each status for two hours (at one in 5 s), a point a minute for a day, one in ten minutes for a week.
TIERS: Final = (Tier(4.0, 7_200.0), Tier(60.0, 90_000.0), Tier(600.0, 7 * 86_400.0))


class Series:
    """Columns of figures over time. A cell of a tier holds the mean of what fell into it.

    Memory is bounded by the tiers: about 4,500 points of each column.

    Args:
        tiers: From the thickest to the thinnest.

    Example:
        >>> series = Series()
        >>> for second in range(0, 40, 10):
        ...     series.add(1_000.0 + second, {"rate": float(second)})
        >>> times, figures = series.read(["rate"], since=0.0, until=2_000.0, step_seconds=20.0)
        >>> times.tolist(), figures[:, 0].tolist()
        ([1000.0, 1020.0], [5.0, 25.0])
    """

    __slots__ = ("_columns", "_tiers")

    def __init__(self, tiers: Sequence[Tier] = TIERS) -> None:
        self._columns: dict[str, int] = {}
        self._tiers = [_Ring(tier) for tier in tiers]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns, in the order they came."""
        return tuple(self._columns)

    def __len__(self) -> int:
        return sum(ring.count for ring in self._tiers)

    def add(self, time: float, values: Mapping[str, float | None]) -> None:
        """Add figures of one moment, epoch seconds. One from before the last falls into the last one's cell."""
        for name in values:
            if name not in self._columns and len(self._columns) < MOST_COLUMNS:
                self._columns[name] = len(self._columns)
        row = np.full(len(self._columns), np.nan)
        for name, value in values.items():
            index = self._columns.get(name)
            if index is not None and value is not None and abs(value) <= MOST_FIGURE:
                row[index] = value
        for ring in self._tiers:
            ring.add(time, row)

    def read(
        self, names: Sequence[str], *, since: float, until: float, step_seconds: float
    ) -> tuple[Numbers, Numbers]:
        """Points of some columns.

        Args:
            names: The columns; one that there is not is all NaN.
            since: First moment, epoch seconds.
            until: Last moment.
            step_seconds: Means over cells of so many seconds.

        Returns:
            Times, shape (n,), the beginning of each cell, ascending; and figures, shape (n, columns), NaN where
            nothing is known.
        """
        ring = next((ring for ring in self._tiers if ring.reaches(since)), self._tiers[-1])
        times, rows = ring.rows()
        chosen = (times >= since) & (times <= until)
        times, rows = times[chosen], rows[chosen]
        figures = np.full((len(times), len(names)), np.nan)
        for to, name in enumerate(names):
            index = self._columns.get(name)
            if index is not None and index < rows.shape[1]:
                figures[:, to] = rows[:, index]
        return _thinned(times, figures, step_seconds)


def _thinned(times: Numbers, figures: Numbers, step_seconds: float) -> tuple[Numbers, Numbers]:
    """The mean of each cell, NaN left out."""
    if len(times) == 0:
        return times, figures
    cells = np.floor(times / step_seconds)
    starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    known = ~np.isnan(figures)
    counts = np.add.reduceat(known, starts, axis=0, dtype=np.float64)
    sums = np.add.reduceat(np.where(known, figures, 0.0), starts, axis=0)
    means = np.full(sums.shape, np.nan)
    np.divide(sums, counts, out=means, where=counts > 0)
    return cells[starts] * step_seconds, means


class _Ring:
    """One tier: a ring of cells, the last of which is still filling."""

    __slots__ = ("_cell", "_counts", "_data", "_head", "_size", "_step", "_sums", "_times", "count")

    def __init__(self, tier: Tier) -> None:
        self._step = tier.step_seconds
        self._size = max(1, int(tier.kept_seconds / tier.step_seconds))
        first = min(64, self._size)
        self._times: Numbers = np.empty(first)
        self._data: Numbers = np.empty((first, 0))
        #: Where the next cell goes, and how many there are.
        self._head = 0
        self.count = 0
        self._cell = -np.inf
        self._sums: Numbers = np.empty(0)
        self._counts: Numbers = np.empty(0)

    def add(self, time: float, row: Numbers) -> None:
        cell = np.floor(time / self._step)
        if cell > self._cell:
            self._cell = cell
            self._sums, self._counts = np.zeros(len(row)), np.zeros(len(row))
            self._open(cell * self._step)
        if len(row) > len(self._sums):
            more = len(row) - len(self._sums)
            self._sums = np.append(self._sums, np.zeros(more))
            self._counts = np.append(self._counts, np.zeros(more))
        if len(row) > self._data.shape[1]:
            wider = np.full((len(self._data), len(row)), np.nan)
            wider[:, : self._data.shape[1]] = self._data
            self._data = wider
        known = ~np.isnan(row)
        self._sums[: len(row)][known] += row[known]
        self._counts[: len(row)][known] += 1
        at = (self._head - 1) % len(self._times)
        self._data[at, :] = np.nan
        filled = self._counts > 0
        self._data[at, : len(self._sums)][filled] = self._sums[filled] / self._counts[filled]

    def _open(self, time: float) -> None:
        if self.count == len(self._times) < self._size:  # not yet a ring: still growing
            larger = min(self._size, 2 * len(self._times))
            self._times = np.resize(self._times, larger)
            data = np.full((larger, self._data.shape[1]), np.nan)
            data[: self.count] = self._data
            self._data, self._head = data, self.count
        self._times[self._head] = time
        self._head = (self._head + 1) % len(self._times)
        self.count = min(self.count + 1, len(self._times))

    def reaches(self, since: float) -> bool:
        """Whether it has all there was since then."""
        return self.count < self._size or bool(self._times[self._head] <= since)

    def rows(self) -> tuple[Numbers, Numbers]:
        order = (np.arange(self.count) + self._head - self.count) % len(self._times)
        return self._times[order], self._data[order]
