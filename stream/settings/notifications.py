"""Whom to tell, and what: `[[notifications]]`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, model_validator

from stream.settings.values import Name, Problem, Section, refuse, whole
from stream.settings.words import Expected

#: One of them says the address, or where it is.
SOURCES = ("url", "url_file", "url_env")
#: Settings beside a secret, where it may have been written by mistake: their values are not shown either.
NEAR_A_SECRET = ("url_file", "url_env")


class NotificationSettings(Section):
    """A channel that the monitor tells people on: one table `[[notifications]]` for each; none by default."""

    name: Name | None = Field(
        default=None,
        description="Its name in logs, metrics and on the dashboard; by default `channel-1` and so on, by its place.",
    )
    url_file: Annotated[Path, Field(strict=False), Expected("the path of a file")] | None = Field(
        default=None, description="File that holds `url`, relative to the settings file's folder."
    )
    url_env: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,199}$"),
            Expected("the name of an environment variable"),
        ]
        | None
    ) = Field(default=None, description="Environment variable that holds `url`.")
    url: Annotated[SecretStr, Field(min_length=1), Expected("a text that is not empty")] | None = Field(
        default=None,
        description="An address of Apprise, such as `slack://...`; it holds secrets, so better from environment or "
        "file. One of `url`, `url_file` and `url_env` is needed; a worker needs none.",
    )
    severity: Literal["info", "warning", "critical"] = Field(
        default="warning",
        description="The least severity that is told. What closes is told if its opening was.",
    )
    group_seconds: Annotated[
        float, Field(ge=0, le=86_400, allow_inf_nan=False), Expected("a number from 0 to 86400")
    ] = Field(
        default=30.0,
        description="Notices are collected this long and sent as one message; 0: each at once.",
    )
    at_most_per_hour: Annotated[int, Field(ge=1, le=3600), whole(1, 3600)] = Field(
        default=20,
        description="Messages within any hour; beyond, notices wait and go together with the next one. A quarter of "
        "them is kept for what is critical.",
    )
    reminder_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False), Expected("a number >= 0")] = Field(
        default=14_400.0, description="What is still open is told again after this time; 0: never."
    )

    def name_at(self, place: int) -> str:
        """Return the name, or the one that it has by its place, counted from 0."""
        return self.name or f"channel-{place + 1}"

    @property
    def source(self) -> str:
        """The setting that says the address, or where it is."""
        return next(key for key in SOURCES if getattr(self, key) is not None)

    @model_validator(mode="after")
    def _check(self) -> NotificationSettings:
        given = [key for key in SOURCES if getattr(self, key) is not None]
        problems: list[Problem] = []
        if not given:
            text = "is missing; expected an address, or url_file or url_env, which say where it is."
            problems.append((("url",), text))
        if len(given) > 1:
            text = f"and {given[0]} are both given; expected one of {', '.join(SOURCES)}."
            problems.append(((given[-1],), text))
        elif self.url_env is not None and self.url_env.startswith("HEADRACE_"):
            text = "begins with HEADRACE_, as the variables of settings do; expected another name."
            problems.append((("url_env",), text))
        refuse(problems)
        return self
