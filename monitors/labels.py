"""How the labels of a partition, or of several together, come: shares of what is counted, and how long they take."""

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

#: The counters of a status that say what became of questions and labels, in the order of its fields.
LABEL_COUNTS: Final[tuple[str, ...]] = (
    *("questions", "joined", "pending", "expired", "expired_early", "expired_learned"),
    *("late", "early", "early_waiting", "unmatched", "duplicate_labels", "conflicting_labels"),
    "corrected_labels",
)

#: Upper bounds of the bins of label delays, seconds: before the question, then a tenth of a second to 30 days.
DELAY_BOUNDS: Final = (
    *(0.0, 0.1, 1.0, 10.0, 60.0, 300.0, 900.0, 3_600.0, 10_800.0, 21_600.0, 43_200.0),
    *(86_400.0, 259_200.0, 604_800.0, 1_209_600.0, 2_592_000.0),
)


def label_health(counts: Mapping[str, int]) -> dict[str, float | None]:
    """Shares of what became of questions and of labels; None where there is nothing to take a share of.

    Args:
        counts: Those of `LABEL_COUNTS`, of a partition or summed over several; what is missing is 0.

    Returns:
        Of the questions whose wait is over: `coverage`, those that got their label, and `expired`, those that did not.
        Of the labels that came: `early`, `late`, `unmatched`, `duplicate` and `conflicting`.

    Example:
        >>> health = label_health({"joined": 90, "expired": 10, "late": 5, "unmatched": 5})
        >>> health["coverage"], health["expired"], health["late"], health["conflicting"]
        (0.9, 0.1, 0.05, 0.0)
        >>> label_health({})["coverage"] is None
        True
    """
    joined, expired = counts.get("joined", 0), counts.get("expired", 0)
    over, came = joined + expired, labels_that_came(counts)

    def share(part: int, whole: int) -> float | None:
        return part / whole if whole > 0 else None

    return {
        "coverage": share(joined, over),
        "expired": share(expired, over),
        "early": share(counts.get("early", 0), came),
        "late": share(counts.get("late", 0), came),
        "unmatched": share(counts.get("unmatched", 0), came),
        "duplicate": share(counts.get("duplicate_labels", 0), came),
        "conflicting": share(counts.get("conflicting_labels", 0), came),
    }


def labels_that_came(counts: Mapping[str, int]) -> int:
    """How many labels came in records of their own: each became one of these, or waits early for its question."""
    return sum(
        counts.get(name, 0)
        for name in ("joined", "late", "unmatched", "duplicate_labels", "conflicting_labels", "early_waiting")
    )


def delay_histogram(delays: Iterable[float]) -> dict[str, list[float] | list[int]] | None:
    """How label delays are distributed: `counts` of those up to each of `bounds`, and of those beyond the last.

    Example:
        >>> found = delay_histogram([-2.0, 45.0, 60.0])
        >>> [(bound, count) for bound, count in zip(found["bounds"], found["counts"]) if count]
        [(0.0, 1), (60.0, 2)]
    """
    counts = [0] * (len(DELAY_BOUNDS) + 1)
    for delay in delays:
        counts[bisect_left(DELAY_BOUNDS, delay)] += 1
    return {"bounds": list(DELAY_BOUNDS), "counts": counts} if any(counts) else None


def add_histograms(found: Iterable[Mapping[str, Sequence[float]]]) -> dict[str, list[float]] | None:
    """Several histograms of label delays as one; those with other bins than the first are left out."""
    total: dict[str, list[float]] | None = None
    for one in found:
        if total is None:
            total = {"bounds": list(one["bounds"]), "counts": list(one["counts"])}
        elif list(one["bounds"]) == total["bounds"]:
            total["counts"] = [
                mine + other for mine, other in zip(total["counts"], one["counts"], strict=True)
            ]
    return total
