"""From where a partition goes on: the decisions of step 5, without any I/O."""

from __future__ import annotations

from typing import NamedTuple

from stream.checkpoint import ANEW, REBUILD
from stream.errors import EnvironmentRefused
from stream.snapshots.file import Fold
from stream.snapshots.keeper import Found, Restored, offset_of


class Beginning(NamedTuple):
    """From where a partition goes on, and what a person should know of it."""

    #: The first record to be read; silently up to C.
    offset: int
    #: The snapshot to go on from; None: from an empty state at the origin.
    restored: Restored | None
    #: The text of an incident; empty if all is as it should be.
    incident: str


def require_log(where: str, *, first: int, end: int, committed: int) -> None:
    """Refuse a log that does not reach from C to its end.

    Args:
        where: Topic and partition, for the sentence.
        first: The first offset that the log still has.
        end: Its last stable offset.
        committed: C.

    Raises:
        EnvironmentRefused: Records were lost at its end, or deleted before they were processed.
    """
    if committed > end:
        raise EnvironmentRefused(
            f"{where}: committed up to {committed}, but the log ends at {end}: records were lost. "
            f"Restore the topic, or begin anew. {ANEW}"
        )
    if committed < first:
        raise EnvironmentRefused(
            f"{where}: committed up to {committed}, but the log now begins at {first}: {first - committed:,} events "
            f"were deleted before they were processed. Keep the events longer (retention.ms). {REBUILD} {ANEW}"
        )


def choose_beginning(
    found: Found, fold: Fold, *, first: int, committed: int, named: str | None, place: str
) -> Beginning:
    """The newest snapshot that can be trusted, else the origin where the log reaches it.

    Args:
        found: What the store has.
        fold: The partition's.
        first: The first offset that the log still has.
        committed: C.
        named: The snapshot that the last commit names.
        place: Where the snapshots are, for sentences.

    Raises:
        EnvironmentRefused: Neither is to be had; says why and what to do.
    """
    broken = [item for item in found.refused if item.is_broken]
    reasons = [item.reason for item in broken]
    restored = found.restored
    # How far down the store was looked through: to what is used, or to the first that the log does not reach.
    looked_to = [offset for item in found.refused if (offset := offset_of(item.name)) < first]
    if restored is not None:
        looked_to.append(restored.header.next_offset)
    seen = {item.name for item in found.refused}
    if named is not None and named not in seen and offset_of(named) > max(looked_to, default=-1):
        at = sum(offset_of(item.name) >= offset_of(named) for item in broken)  # the newest comes first
        reasons.insert(at, f"{named}, which the last commit names, is not in {place}.")
    if restored is not None:
        offset = restored.header.next_offset
        return Beginning(
            offset, restored, f"{reasons[0]} Restored from the one at {offset} instead." if reasons else ""
        )
    where = f"{fold.topic}[{fold.partition}]"
    why = " ".join([*reasons, *(item.reason for item in found.refused if not item.is_broken)][:1])
    why = f"The newest one can't be used: {why} " if why else ""
    if fold.base:
        raise EnvironmentRefused(
            f"{where}: the state began with a file of rows, and no snapshot of it is to be had in {place}. {why}"
            f"Give headrace rebuild the same file again. {ANEW}"
        )
    if fold.origin < first:
        raise EnvironmentRefused(
            f"{where}: the log now begins at {first}, but the state began at {fold.origin}, and there is no "
            f"snapshot to go on from in {place}. {why}{REBUILD} It then knows the events that are still there. {ANEW}"
        )
    incident = (
        f"{reasons[0]} Learning again from the origin, {committed - fold.origin:,} records."
        if reasons
        else ""
    )
    return Beginning(fold.origin, None, incident)
