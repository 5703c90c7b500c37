"""When too many records are bad: more live dead letters than a budget within a window of time stop a worker."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from stream.records import Output

#: The window is kept in so many parts: what is remembered stays small, however large the budget.
PARTS = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterBudget:
    """How many dead letters are borne, and within which time."""

    #: One more within the window is too many; 0 bears none.
    most: int
    #: The window, seconds.
    window_seconds: float


class RecentDeadLetters:
    """Dead letters of the last window, counted when they are committed.

    Args:
        budget: What is borne.

    Example:
        >>> recent = RecentDeadLetters(DeadLetterBudget(most=10, window_seconds=60.0))
        >>> recent.add(8, now=100.0), recent.add(8, now=200.0), recent.add(3, now=250.0)
        (False, False, True)
    """

    def __init__(self, budget: DeadLetterBudget) -> None:
        self.budget = budget
        #: How many there were within the window, as of the last call.
        self.count = 0
        #: When each part of the window began, and how many came in it; oldest first.
        self._parts: deque[tuple[float, int]] = deque()

    def add(self, count: int, now: float) -> bool:
        """Count some more; True if that is more than the budget.

        Args:
            count: How many have been committed since the last call.
            now: Seconds that only grow.
        """
        window = self.budget.window_seconds
        if self._parts and now - self._parts[-1][0] < window / PARTS:
            began, before = self._parts.pop()
            self._parts.append((began, before + count))
        else:
            self._parts.append((now, count))
        self.count += count
        while now - self._parts[0][0] >= window:
            self.count -= self._parts.popleft()[1]
        return self.count > self.budget.most


def headers_of(sent: Iterable[tuple[int, Sequence[Output]]], name: str) -> list[str]:
    """A header of Headrace's own from each dead letter among what a partition has sent, in order."""
    return [
        # The record's own headers come first: one of them may have this name.
        [text or b"" for header, text in output.headers or () if header == name][-1].decode()
        for _, outputs in sent
        for output in outputs
        if output.to == "dead_letters"
    ]
