"""Where a pipeline keeps its snapshots, how often, and what seals them: `[snapshots]`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr, field_validator, model_validator

from stream.settings.values import (
    FieldNames,
    File,
    Parameters,
    Problem,
    Seconds,
    Section,
    Text,
    refuse,
    secret_from_file,
    whole,
)
from stream.settings.words import Expected

#: Characters of a key: as many bytes as the digest that it keys.
LEAST_KEY: int = 32


class SnapshotSettings(Section):
    """Where the state is kept so that a restart need not learn everything again, how often, and what seals it."""

    enabled: bool = Field(
        default=True,
        description="Without snapshots each restart learns every partition again from its origin.",
    )
    location: Text = Field(
        default=".headrace/snapshots",
        description="A directory, relative to the settings file's folder; or an address for workers on several "
        "machines, such as `s3://bucket/prefix` (any fsspec address). Each pipeline has a folder of its name in it.",
    )
    key_file: File | None = Field(default=None, description="File that holds `key`.")
    key: (
        Annotated[
            SecretStr,
            Field(min_length=LEAST_KEY),
            Expected(f"a text of at least {LEAST_KEY} characters"),
        ]
        | None
    ) = Field(
        default=None,
        validate_default=True,
        description="Seals snapshots, so that a forged one is refused; better from environment or file. In a local "
        "directory one is made on first use; an address needs one.",
    )
    interval_seconds: Seconds = Field(
        default=10.0,
        description="A partition's state is kept after this time, or after `interval_events`, whichever comes "
        "first; later where that would take more than 5 % of the worker's time.",
    )
    interval_events: Annotated[int, Field(ge=1), whole(1)] = Field(
        default=50_000, description="See `interval_seconds`; in records of one partition."
    )
    keep: Annotated[int, Field(ge=2, le=1000), whole(2, 1000)] = Field(
        default=3, description="Snapshots kept of each partition; older ones are deleted."
    )
    max_bytes: Annotated[int, Field(ge=1_000), whole(1_000)] = Field(
        default=1_073_741_824,
        description="Largest snapshot that is written or read, with its segments, in bytes.",
    )
    trusted_modules: FieldNames = Field(
        default=(),
        description="Modules beside Headrace's, River's and that of `[learner] build` whose classes a learner of yours "
        'holds, such as `["sklearn", "scipy"]`; a snapshot that asks for any other is refused.',
    )
    options: Parameters = Field(
        default_factory=dict,
        description="What fsspec takes for the address (`storage_options`), as a table `[snapshots.options]`.",
    )

    _read_secret = field_validator("key", mode="before")(secret_from_file)

    @property
    def is_remote(self) -> bool:
        """Whether the location is an address, not a directory of this machine."""
        return "://" in self.location and not self.location.startswith("file://")

    @model_validator(mode="after")
    def _check(self) -> SnapshotSettings:
        problems: list[Problem] = []
        if self.is_remote and self.key is None and self.enabled:
            problems.append(
                (
                    ("key",),
                    "is missing; an address needs one, the same for each worker: set HEADRACE_SNAPSHOTS__KEY or "
                    "key_file. To make one: python -c 'import secrets; print(secrets.token_hex(32))'",
                )
            )
        if self.options and not self.is_remote:
            problems.append((("options",), "is for an address; location is a directory: leave it out."))
        refuse(problems)
        return self
