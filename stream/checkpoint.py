"""What a commit says about itself, and whether a worker may go on from it: steps 1 and 5 of the protocol."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.metadata import version
from typing import Final

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from stream.errors import EnvironmentRefused
from stream.settings import Settings

#: Version of the metadata; another one is refused.
FORMAT: Final = 1
#: Kafka's bound on a commit's metadata (offset.metadata.max.bytes), bytes.
MAX_METADATA_BYTES: Final = 4_096

#: Keys of the shape that are versions in clear, not digests: another River or Python learns other numbers.
VERSIONS: Final = ("python", "river")

#: What to do where a state can't be had from what is there.
ANEW: Final = (
    "headrace reset begins anew and says what that loses; or give the pipeline another name in its settings: "
    "state, outputs and offsets are kept by that name."
)
#: What to do where the state is to be another one: it can be learned from the log.
REBUILD: Final = "headrace rebuild learns the state again as the settings are now, and goes on from there."


def state_shape(settings: Settings) -> dict[str, str]:
    """All that shapes the state beside the log: digests of settings by name, and the versions of River and Python."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return {**settings.shape(), "river": version("river"), "python": python}


def changed_parts(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """What shapes the state and differs, in words.

    Example:
        >>> changed_parts({"river": "0.25.0", "learner": "1f"}, {"river": "0.26.1", "learner": "2e"})
        ['learner', 'river (0.25.0 then, 0.26.1 now)']
    """
    return [
        f"{name} ({before.get(name)} then, {now.get(name)} now)" if name in VERSIONS else name
        for name in sorted({*before, *now})
        if before.get(name) != now.get(name)
    ]


class _AnyFormat(BaseModel):
    """What the metadata has in every format."""

    format: int
    pipeline: str


class CommitMetadata(BaseModel):
    """The metadata of a commit: enough to restore the state, or to see that it can't be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    #: The pipeline's name.
    pipeline: str
    #: O: the offset at which the fold began.
    origin: int
    #: Identity of the events topic and its partition count at the origin.
    topic_id: str
    partitions: int
    #: What shapes the state beside the log: digests of settings by name, and the versions of River and Python.
    shape: dict[str, str]
    #: Transactional id of the worker that committed.
    writer: str
    #: Name of the newest snapshot; None until there is one.
    snapshot: str | None = None
    #: What was learned before the origin: empty, or the digest of a file of rows (`headrace rebuild --rows`).
    base: str = ""
    #: Which fold this is, of several with the same beginning: empty for the first, drawn by each rebuild and reset.
    fold_id: str = ""

    def encode(self) -> str:
        """As the string that goes into the commit."""
        text = orjson.dumps(self.model_dump()).decode()
        if len(text) > MAX_METADATA_BYTES:
            raise AssertionError(f"commit metadata has {len(text)} bytes; Kafka takes {MAX_METADATA_BYTES}")
        return text

    @classmethod
    def decode(cls, text: str, *, group: str, where: str) -> CommitMetadata:
        """Read the string of a commit.

        Raises:
            EnvironmentRefused: It is not one of ours, or of another version.
        """
        try:
            found = _AnyFormat.model_validate_json(text).format
            metadata = cls.model_validate_json(text) if found == FORMAT else None
        except ValidationError:
            raise EnvironmentRefused(
                f"{where}: group {group!r} has a committed offset that Headrace did not write "
                f"(metadata {text[:80]!r}). Another consumer or an offset reset used this group. {ANEW}"
            ) from None
        if metadata is None:
            raise EnvironmentRefused(
                f"{where}: the commit has format {found}; this version reads {FORMAT}. "
                "Run the version of Headrace that wrote it."
            )
        return metadata

    def require_same(
        self, *, pipeline: str, topic_id: str, partitions: int, shape: Mapping[str, str], where: str
    ) -> None:
        """Refuse to go on from this commit under other circumstances than it was made in.

        Raises:
            EnvironmentRefused: Recreated topic, other partition count, or changed settings; says which.
        """
        if self.pipeline != pipeline:
            raise EnvironmentRefused(
                f"{where}: the commit is of pipeline {self.pipeline!r}, not {pipeline!r}. {ANEW}"
            )
        if self.topic_id != topic_id:
            raise EnvironmentRefused(
                f"{where}: the topic was deleted and created again since (id {self.topic_id}, now {topic_id}): "
                f"its offsets mean other records. {ANEW}"
            )
        if self.partitions != partitions:
            raise EnvironmentRefused(
                f"{where}: the topic had {self.partitions} partitions at the origin and has {partitions} now: "
                f"keys have moved between learners. {REBUILD} {ANEW}"
            )
        if changed := changed_parts(self.shape, shape):
            raise EnvironmentRefused(
                f"{where}: this has changed since the state began: {', '.join(changed)}. "
                f"The state would no longer follow from the log. Put it back as it was, or: {REBUILD}"
            )
