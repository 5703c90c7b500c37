"""Settings of a pipeline: one TOML file, environment variables over it, a tree of frozen models.

`load_settings` reads both and reports every mistake at once, each with its place. No other module reads
`os.environ`: what a module needs to know is handed to it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from stream.clients import refusal, ssl_context, uses_sasl, uses_tls
from stream.errors import ConfigError, Mistake

Task = Literal["binary", "multiclass", "regression"]

#: Where a setting is: `("metrics", "window")`, `("drift", 1, "detector")`.
Location = tuple[str | int, ...]
#: A location and what is wrong there, without the file and the line.
Problem = tuple[Location, str]

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")

#: What is measured when the settings don't say, for each task.
DEFAULT_METRICS: Mapping[str, tuple[str, ...]] = {
    "binary": ("accuracy", "roc_auc"),
    "multiclass": ("accuracy", "macro_f1"),
    "regression": ("mae", "rmse"),
}

#: The topics that are named after the pipeline unless the settings name them.
DEFAULT_TOPICS: Mapping[str, str] = {
    "predictions": "{name}.predictions",
    "alerts": "{name}.alerts",
    "dead_letters": "{name}.dead-letters",
    "status": "{name}.status",
}


# --- What a value may be ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Expected:
    """What a setting may be, in words: the second half of "is -5; expected a number > 0"."""

    words: str


def _problem(text: str) -> PydanticCustomError:
    return PydanticCustomError("problem", "{text}", {"text": text})


def _refuse(problems: Iterable[Problem]) -> None:
    """Raise all problems of a section as one error; their locations begin at the section."""
    found = list(problems)
    if found:
        text = " ".join(f"{_setting(location)} {text}" for location, text in found)
        raise PydanticCustomError("problems", "{text}", {"text": text, "problems": found})


def _resolved(path: Path, info: ValidationInfo) -> Path:
    """Resolve a path from the settings file's folder, and see that there is a file."""
    folder = info.context["folder"] if info.context else Path()
    path = folder / path.expanduser()
    if not path.is_file():
        raise _problem(f"is {_shown(str(path))}; there is no such file.")
    return path


def _start(value: object) -> object:
    if isinstance(value, str) and value not in {"earliest", "latest"}:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime) and value.tzinfo is None:
        raise _problem(
            f"is {value.isoformat()}, a time without a zone; end it with Z (UTC) or an offset as +02:00."
        )
    return value


def _librdkafka(value: object) -> object:
    """Flatten what TOML's unquoted dotted keys nest, and write values as librdkafka takes them."""
    if not isinstance(value, dict):
        return value
    flat: dict[str, SecretStr] = {}
    problems: list[Problem] = []
    for key, item in _flattened(value):
        if isinstance(item, SecretStr):
            flat[key] = item
        elif isinstance(item, str | int | float):
            flat[key] = SecretStr(str(item).lower() if isinstance(item, bool) else str(item))
        else:
            problems.append(((key,), "has the wrong type; expected a text, a number, true or false."))
        if (reason := refusal(key)) is not None:
            problems.append(((key,), reason))
    _refuse(problems)
    return flat


def _flattened(table: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


Text = Annotated[str, Field(min_length=1, max_length=1000), Expected("a text")]
# 128 characters: what a name in an event may have.
FieldName = Annotated[str, Field(min_length=1, max_length=128), Expected("the name of a field")]
FieldNames = Annotated[tuple[FieldName, ...], Field(strict=False), Expected("a list of names of fields")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number > 0")]
File = Annotated[Path, Field(strict=False), AfterValidator(_resolved), Expected("the path of a file")]
Secret = Annotated[SecretStr, Field(min_length=1), Expected("a text that is not empty")]
Parameters = Annotated[dict[str, Any], Expected("a table")]
TopicName = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$"),
    Expected("the name of a Kafka topic (1 to 249 of a-z, A-Z, 0-9, dot, underscore and hyphen)"),
]


def _whole(low: int, high: int | None = None) -> Expected:
    return Expected(
        f"a whole number from {low} to {high}" if high is not None else f"a whole number >= {low}"
    )


# --- The tree --------------------------------------------------------------------------------------------


class _Section(BaseModel):
    # A wrong type in the file is a mistake, not something to convert; pydantic's own errors show no value.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class KafkaSettings(_Section):
    """How every client reaches the brokers. Relative paths are relative to the settings file's folder."""

    bootstrap_servers: Annotated[
        str,
        Field(pattern=r"^[^\s,]+:\d+(,[^\s,]+:\d+)*$"),
        Expected("host:port, or several with commas between"),
    ] = Field(default="127.0.0.1:9092", description="Brokers to ask first, `host:port`, with commas between.")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        default="PLAINTEXT",
        description="Encryption (`SSL`, `SASL_SSL`) and login (`SASL_PLAINTEXT`, `SASL_SSL`).",
    )
    ca_file: File | None = Field(
        default=None,
        description="Certificates (PEM) of the authority that signed the brokers'; without it, the system's.",
    )
    certificate_file: File | None = Field(
        default=None, description="The client's own certificate (PEM), where the brokers ask for one."
    )
    key_file: File | None = Field(default=None, description="The key (PEM) of `certificate_file`.")
    key_password_file: File | None = Field(default=None, description="File that holds `key_password`.")
    key_password: Secret | None = Field(
        default=None,
        validate_default=True,
        description="Password of `key_file`; better from environment or file.",
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        default=None, description="How to log in."
    )
    sasl_username: Text | None = Field(default=None, description="Name to log in with.")
    sasl_password_file: File | None = Field(default=None, description="File that holds `sasl_password`.")
    sasl_password: Secret | None = Field(
        default=None,
        validate_default=True,
        description="Password to log in with; better from environment or file.",
    )
    # Text as librdkafka takes it ("true", "5"), and secret: some of its keys are passwords.
    librdkafka: Annotated[dict[str, SecretStr], BeforeValidator(_librdkafka), Expected("a table")] = Field(
        default_factory=dict,
        description="Anything else for the data plane's client, under librdkafka's own names, as a table "
        "`[kafka.librdkafka]`; what the commit protocol relies on is refused.",
    )

    @field_validator("key_password", "sasl_password", mode="before")
    @classmethod
    def _read_secret(cls, value: object, info: ValidationInfo) -> object:
        name = f"{info.field_name}_file"
        path = info.data.get(name)
        if path is None:
            return value
        if value is not None:
            raise _problem(f"and {name} are both given; expected one of them.")
        try:
            text = path.read_text(encoding="utf-8").rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            why = "it is not UTF-8" if isinstance(error, UnicodeDecodeError) else error.strerror
            raise _problem(f"can't be read from {name} ({path}): {why}.") from None
        if not text:
            raise _problem(f"can't be read from {name} ({path}): it is empty.")
        return text

    @model_validator(mode="after")
    def _check(self) -> KafkaSettings:
        problems: list[Problem] = []
        protocol = self.security_protocol
        if not uses_tls(self):
            problems.extend(
                ((key,), f"is given, but security_protocol is {protocol}; expected SSL or SASL_SSL.")
                for key in ("ca_file", "certificate_file", "key_file", "key_password")
                if getattr(self, key) is not None
            )
        else:
            if self.certificate_file is not None and self.key_file is None:
                problems.append((("key_file",), "is missing; certificate_file needs it."))
            if self.key_file is not None and self.certificate_file is None:
                problems.append((("certificate_file",), "is missing; key_file needs it."))
            if self.key_password is not None and self.key_file is None:
                problems.append((("key_password",), "is given, but there is no key_file."))
        for key in ("sasl_mechanism", "sasl_username", "sasl_password"):
            given = getattr(self, key) is not None
            if uses_sasl(self) and not given:
                words = expected(type(self).model_fields[key])
                problems.append(((key,), f"is missing; security_protocol {protocol} needs {words}."))
            elif given and not uses_sasl(self):
                problems.append(
                    (
                        (key,),
                        f"is given, but security_protocol is {protocol}; expected SASL_SSL.",
                    )
                )
        if not problems and uses_tls(self):
            try:
                ssl_context(self)
            except OSError as error:  # ssl.SSLError is one
                reason = getattr(error, "reason", None) or error.strerror or str(error)
                text = f"can't be used for TLS ({reason}); expected PEM files that fit each other."
                keys = [key for key in ("ca_file", "certificate_file", "key_file") if getattr(self, key)]
                problems.append(
                    ((keys[0] if keys else "security_protocol",), f"{text} Looked at: {', '.join(keys)}.")
                )
        _refuse(problems)
        return self


class TopicSettings(_Section):
    """The topics of the pipeline. Outputs have as many partitions as the events."""

    events: TopicName = Field(description="Where the events come from.")
    start: Annotated[
        Literal["earliest", "latest"] | datetime,
        BeforeValidator(_start),
        Expected('"earliest", "latest" or a time such as "2026-01-31T00:00:00Z"'),
    ] = Field(default="earliest", description="Where a new pipeline begins; used once.")
    predictions: TopicName = Field(
        default="", description="Where predictions go; by default `{name}.predictions`."
    )
    alerts: TopicName = Field(default="", description="Where drift alerts go; by default `{name}.alerts`.")
    dead_letters: TopicName = Field(
        default="", description="Where bad records go, with the reason; by default `{name}.dead-letters`."
    )
    status: TopicName = Field(
        default="", description="Where each partition's figures go; by default `{name}.status`."
    )
    outcomes: TopicName | None = Field(
        default=None,
        description="Where predictions go once more, joined with their labels; by default nowhere.",
    )


class AllBut(_Section):
    """`features = { except = ["a", "b"] }`: all top-level fields but these (and id, time and label)."""

    except_: FieldNames = Field(alias="except")


class EventSettings(_Section):
    """Where things are in an event, a JSON object."""

    id: FieldName | None = Field(
        default="id", description="Field with the event's id, which an answer repeats."
    )
    time: FieldName | None = Field(
        default=None,
        description="Field with the event's time (epoch seconds or milliseconds, or ISO 8601); without it, "
        "the record's timestamp.",
    )
    label: FieldName = Field(default="label", description="Field with the label.")
    features: Annotated[
        FieldName | FieldNames | AllBut,
        Expected("the name of one field, a list of names, or { except = [names] }"),
    ] = Field(
        default="features",
        description="Field with an object of features; or a list of top-level fields; or "
        "`{ except = [...] }`, all top-level fields but those (and id, time and label).",
    )
    positive: Annotated[str | bool | int | None, Expected("a text, a whole number, true or false")] = Field(
        default=None,
        description="Binary task: the label's value that means true, any other means false; without it, "
        "true/false and 1/0 are labels.",
    )
    max_ahead_seconds: Seconds = Field(
        default=3600.0,
        description="How far an event's time may be ahead of its record's; beyond, it is a dead letter.",
    )

    @model_validator(mode="after")
    def _check(self) -> EventSettings:
        problems: list[Problem] = []
        taken: dict[str, str] = {}
        for key in ("id", "time", "label", "features"):
            name = getattr(self, key)
            if isinstance(name, str):
                if name in taken:
                    problems.append(((key,), f'is "{name}", as {taken[name]} is; expected another field.'))
                taken.setdefault(name, key)
        if isinstance(self.features, tuple):
            if not self.features:
                problems.append((("features",), "is empty; expected at least one field."))
            if self.label in self.features:
                text = f'holds the label, "{self.label}": the learner would see the answer; leave it out.'
                problems.append((("features",), text))
            for name in dict.fromkeys(name for name in self.features if self.features.count(name) > 1):
                problems.append((("features",), f'names "{name}" twice; expected it once.'))
        _refuse(problems)
        return self


class LabelSettings(_Section):
    """How long a prediction waits for its label, in event time."""

    expire_after_seconds: Seconds = Field(
        default=86_400.0,
        description="How long a prediction waits; a label after that is late and not learned.",
    )
    capacity: Annotated[int, Field(ge=1), _whole(1)] = Field(
        default=100_000,
        description="Most predictions that wait, for each partition; beyond, the oldest expires.",
    )


class LearnerSettings(_Section):
    """What learns: `use` or `build`, one of them."""

    use: Text | None = Field(default=None, description="Name of a learner, such as `logistic-regression`.")
    build: (
        Annotated[
            str,
            Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$"),
            Expected('"module:function" or "package.module:function"'),
        ]
        | None
    ) = Field(
        default=None,
        description="Your own function that returns a River estimator, `module:function`; the settings "
        "file's folder is searched.",
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters of the learner, by name.")
    seed: Annotated[int, Field(ge=0, le=2**32 - 1), _whole(0, 2**32 - 1)] = Field(
        default=42, description="Seed of all that is random in the learner."
    )

    @model_validator(mode="after")
    def _check(self) -> LearnerSettings:
        if self.use is None and self.build is None:
            _refuse(
                [(("use",), 'is missing; expected the name of a learner (or build = "module:function").')]
            )
        if self.use is not None and self.build is not None:
            _refuse([(("build",), "and use are both given; expected one of them.")])
        return self


class MetricSettings(_Section):
    """What is measured, on predictions made before their label was learned."""

    use: Annotated[
        tuple[Text, ...], Field(strict=False, min_length=1), Expected("a list of names of metrics")
    ] = Field(
        default=(),
        description="Names of metrics; the first is set beside the baselines. By default `accuracy` and "
        "`roc_auc` (binary), `accuracy` and `macro_f1` (multiclass), `mae` and `rmse` (regression).",
    )
    window: Annotated[int, Field(ge=10, le=10_000), _whole(10, 10_000)] = Field(
        default=1000, description="Each metric is also taken over this many last labels."
    )


class DriftSettings(_Section):
    """A drift detector and what it watches. One table `[[drift]]` for each; none by default."""

    watch: Annotated[Text, Expected('"error", "label", "prediction" or "feature:NAME"')] = Field(
        description="`error`, `label`, `prediction`, or `feature:NAME` for a numeric feature."
    )
    detector: Annotated[Text, Expected("the name of a detector")] = Field(
        description="Name of a detector, such as `adwin`."
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters of the detector, by name.")


class WorkerSettings(_Section):
    """How a worker commits and reports."""

    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="`at_least_once` works without transactions; after a crash some outputs may repeat.",
    )
    commit_interval_ms: Annotated[int, Field(ge=1, le=60_000), _whole(1, 60_000)] = Field(
        default=200, description="Longest time between commits, in milliseconds; at low rates it is shorter."
    )
    status_interval_seconds: Seconds = Field(
        default=5.0, description="Time between status records, in seconds."
    )
    instance: (
        Annotated[
            str,
            Field(pattern=r"^[a-zA-Z0-9][a-zA-Z0-9._-]{0,99}$"),
            Expected("1 to 100 of a-z, A-Z, 0-9, dot, underscore and hyphen, a letter or digit first"),
        ]
        | None
    ) = Field(
        default=None,
        description="Name of this machine among those that run the pipeline; without it, the host name. "
        "Part of the transactional id, so it must survive a restart.",
    )
    transaction_timeout_ms: Annotated[int, Field(ge=1000, le=900_000), _whole(1000, 900_000)] = Field(
        default=10_000,
        description="After this time the broker ends a dead worker's transaction, in milliseconds.",
    )
    session_timeout_ms: Annotated[int, Field(ge=1000, le=1_800_000), _whole(1000, 1_800_000)] = Field(
        default=10_000,
        description="After this time a silent worker loses its partitions, in milliseconds; brokers refuse "
        "less than 6000 unless told otherwise.",
    )

    @model_validator(mode="after")
    def _check(self) -> WorkerSettings:
        if self.commit_interval_ms > self.transaction_timeout_ms // 2:
            text = (
                f"is {self.commit_interval_ms}; expected at most half of transaction_timeout_ms "
                f"({self.transaction_timeout_ms}), or the broker would end a transaction in use."
            )
            _refuse([(("commit_interval_ms",), text)])
        return self


class Settings(_Section):
    """The settings of one pipeline.

    Example:
        >>> settings = Settings.model_validate(
        ...     {
        ...         "name": "fraud",
        ...         "task": "binary",
        ...         "topics": {"events": "payments"},
        ...         "learner": {"use": "logistic-regression"},
        ...     }
        ... )
        >>> settings.topics.predictions, settings.metrics.use, settings.event.label
        ('fraud.predictions', ('accuracy', 'roc_auc'), 'label')
    """

    name: Annotated[
        str,
        Field(pattern=f"^{NAME.pattern}$"),
        Expected("1 to 100 of a-z, 0-9, dot, underscore and hyphen, a letter or digit first"),
    ] = Field(
        description="Name of the pipeline: its consumer group, and the first half of its topics' names."
    )
    task: Task = Field(description="What is predicted: true or false, one of several classes, or a number.")
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings
    event: EventSettings = EventSettings()
    labels: LabelSettings = LabelSettings()
    learner: LearnerSettings
    metrics: MetricSettings = MetricSettings()
    drift: Annotated[tuple[DriftSettings, ...], Field(strict=False)] = ()
    worker: WorkerSettings = WorkerSettings()

    _path: Path = PrivateAttr(default=Path("settings.toml"))

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, raw: Any) -> Any:
        return _with_defaults(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _check(self) -> Settings:
        _refuse(_conflicts(dict(self) | {"drift": dict(enumerate(self.drift))}))
        return self

    @property
    def path(self) -> Path:
        """The file that these settings came from."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder of the file; the user's own learner is imported from there."""
        return self._path.absolute().parent

    def shape(self) -> dict[str, str]:
        """Short digests of what shapes a partition's state, by section: equal digests, equal fold.

        Settings with equal digests make the same state of the same log, bit by bit. A state is kept with
        the digests of its settings, and a difference is named by its section. The source of the user's own
        learner counts as part of the learner.
        """
        learner = self.learner.model_dump(mode="json")
        if self.learner.build is not None:
            # Imported here: River takes a second to import, and `headrace --help` should not wait for it.
            from learners.registry import digest_of_source  # noqa: PLC0415

            learner["source"] = digest_of_source(self.learner.build, self.folder)
        parts = {
            "task": self.task,
            "events": self.topics.events,
            "event": self.event.model_dump(mode="json", by_alias=True),
            "labels": self.labels.model_dump(mode="json"),
            "learner": learner,
            "metrics": self.metrics.model_dump(mode="json"),
            "drift": [item.model_dump(mode="json") for item in self.drift],
        }
        return {name: _digest(part) for name, part in parts.items()}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
    """Add the defaults that depend on other settings: topic names on the name, metrics on the task."""
    filled = {"topics": {}, "learner": {}, "metrics": {}} | dict(raw)
    for key in ("topics", "metrics"):
        if isinstance(filled[key], BaseModel):
            filled[key] = filled[key].model_dump(exclude_unset=True)
    name, task, topics, metrics = filled.get("name"), filled.get("task"), filled["topics"], filled["metrics"]
    if isinstance(topics, dict) and isinstance(name, str) and NAME.fullmatch(name):
        filled["topics"] = {key: text.format(name=name) for key, text in DEFAULT_TOPICS.items()} | topics
    if isinstance(metrics, dict) and isinstance(task, str) and task in DEFAULT_METRICS:
        filled["metrics"] = {"use": DEFAULT_METRICS[task]} | metrics
    return filled


def _conflicts(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings that don't go together; `parts` holds the top-level settings that are well-formed."""
    topics: TopicSettings | None = parts.get("topics")
    event: EventSettings | None = parts.get("event")
    drift: Mapping[int, DriftSettings] = parts["drift"]
    task = parts.get("task")

    if topics is not None:
        taken: dict[str, str] = {}
        for key in ("events", *DEFAULT_TOPICS, "outcomes"):
            topic = getattr(topics, key)
            if not topic:
                continue
            # Kafka refuses two topics that differ in dots and underscores only.
            plain = topic.replace(".", "_")
            if plain in taken:
                text = f'is "{topic}", which is taken by {taken[plain]}; expected a topic of its own.'
                yield ("topics", key), text
            taken.setdefault(plain, key)

    if event is not None and event.positive is not None and task in {"multiclass", "regression"}:
        yield ("event", "positive"), f"is for the binary task, not for {task}; leave it out."

    seen: dict[tuple[str, str], int] = {}
    for i, item in drift.items():
        first = seen.setdefault((item.watch, item.detector), i)
        if first != i:
            text = f'watches "{item.watch}" with {item.detector} like number {first + 1}; expected it once.'
            yield ("drift", i), text
        kind, _, feature = item.watch.partition(":")
        features = event.features if event is not None else None
        if kind == "feature" and feature and isinstance(features, tuple) and feature not in features:
            text = f'is "{item.watch}", which is not among [event] features; {_hint(feature, features)}'
            yield ("drift", i, "watch"), text


# --- Reading them ----------------------------------------------------------------------------------------

ENVIRONMENT_PREFIX = "HEADRACE_"
#: Variables with the prefix that are no settings: those of the tests and of `headrace broker`.
NOT_SETTINGS = ("HEADRACE_TEST_", "HEADRACE_BROKER_", "HEADRACE_CACHE")


def load_settings(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a pipeline's settings from its file, and from the environment over it.

    `HEADRACE_KAFKA__BOOTSTRAP_SERVERS` overrides `bootstrap_servers` of `[kafka]`, and so on; lists and
    tables are written as JSON; a variable that is empty counts as not set.

    Args:
        path: The TOML file.
        environ: The environment; by default that of this process.

    Raises:
        ConfigError: With every mistake at once: what is not as it must be, what does not go together, and a
            learner, metric or detector that does not fit the task.
    """
    path = Path(path)
    text = _read(path)
    try:
        raw = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also integers of thousands of digits
        raise ConfigError([_syntax_mistake(path, error)]) from None

    origins, mistakes = _override(raw, os.environ if environ is None else environ)
    problems, parts, settings = _validated(raw, path.absolute().parent)
    problems += _package_problems(parts, path.absolute().parent)

    if problems:
        lines = _lines(text)
        mistakes += [
            Mistake(place=_place(path, location, lines, origins), setting=_setting(location), text=words)
            for location, words in sorted(problems, key=lambda problem: _line(problem[0], lines))
        ]
    if mistakes or settings is None:
        raise ConfigError(mistakes)
    settings._path = path
    return settings


def _read(path: Path) -> str:
    def wrong(text: str) -> ConfigError:
        return ConfigError([Mistake(place=str(path), setting="", text=text)])

    try:
        # A byte order mark, as Windows editors write it, is no mistake.
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise wrong("there is no such file; `headrace init` writes one to begin with.") from None
    except IsADirectoryError:
        raise wrong("this is a folder; expected a settings file (TOML).") from None
    except UnicodeDecodeError as error:
        raise wrong(f"the file is not UTF-8 (byte {error.start + 1}); save it as UTF-8.") from None
    except OSError as error:
        raise wrong(f"the file can't be read: {error.strerror}.") from None


def _syntax_mistake(path: Path, error: Exception) -> Mistake:
    if isinstance(error, RecursionError):
        return Mistake(place=str(path), setting="", text="the file is nested too deeply.")
    match = re.fullmatch(r"(?s)(.*) \(at line (\d+), column (\d+)\)", str(error))
    if match is None:  # "at end of document"
        return Mistake(place=str(path), setting="", text=f"this is not TOML: {error}.")
    text, line, column = match.groups()
    return Mistake(place=f"{path}:{line}", setting="", text=f"this is not TOML at column {column}: {text}.")


def _override(raw: dict[str, Any], environ: Mapping[str, str]) -> tuple[dict[Location, str], list[Mistake]]:
    """Put what the environment says over the file's; return what came from where, and the mistakes."""
    variables = environment_variables()
    origins: dict[Location, str] = {}
    mistakes = []
    for variable, text in sorted(environ.items()):
        if not variable.startswith(ENVIRONMENT_PREFIX) or variable.startswith(NOT_SETTINGS):
            continue
        found = variables.get(variable)
        if found is None:
            near = get_close_matches(variable.upper(), variables, n=1)
            hint = f"did you mean {near[0]}?" if near else "expected HEADRACE_SECTION__KEY."
            mistakes.append(
                Mistake(place=variable, setting="", text=f"this variable names no setting; {hint}")
            )
            continue
        if not text:
            continue
        location, field = found
        table = raw
        for key in location[:-1]:
            table = table.setdefault(str(key), {})
            if not isinstance(table, dict):
                break  # the file's own mistake, reported as such
        else:
            table[str(location[-1])] = _from_text(text, field)
            origins[location] = variable
    return origins, mistakes


def environment_variables() -> dict[str, tuple[Location, FieldInfo]]:
    """Return every environment variable that names a setting, where the setting is, and what it may be."""
    variables: dict[str, tuple[Location, FieldInfo]] = {}
    for name, field in Settings.model_fields.items():
        section = _section_of(field)
        if section is None or name == "drift":
            variables[f"{ENVIRONMENT_PREFIX}{name.upper()}"] = (name,), field
        else:
            for key, inner in section.model_fields.items():
                variables[f"{ENVIRONMENT_PREFIX}{name.upper()}__{key.upper()}"] = (name, key), inner
    return variables


def _from_text(text: str, field: FieldInfo) -> object:
    """Read a variable's text as what the setting may be; anything but text is written as JSON."""
    if not _kinds(field.annotation) & {int, float, bool, tuple, dict}:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


def _kinds(annotation: Any) -> set[Any]:
    """The plain types that an annotation allows."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0])
    if origin in {Union, UnionType}:
        return set().union(*(_kinds(arg) for arg in get_args(annotation)))
    return {origin or annotation}


def _validated(raw: dict[str, Any], folder: Path) -> tuple[list[Problem], dict[str, Any], Settings | None]:
    """Return the problems, the top-level settings that are well-formed, and without problems all settings."""
    raw = _with_defaults(raw)
    context = {"folder": folder}
    try:
        settings = Settings.model_validate(raw, context=context)
    except ValidationError as error:
        problems = _problems_of(error, raw)
    else:
        return [], dict(settings) | {"drift": dict(enumerate(settings.drift))}, settings

    wrong = {location[0] for location, _ in problems}
    parts: dict[str, Any] = {}
    for name, field in Settings.model_fields.items():
        section = _section_of(field)
        if section is None:
            if name not in wrong:
                parts[name] = raw[name]
        elif name == "drift":
            items = raw[name] if isinstance(raw.get(name), list) else []
            valid = ((i, _section_or_none(section, item, context)) for i, item in enumerate(items))
            parts[name] = {i: item for i, item in valid if item is not None}
        else:
            part = _section_or_none(section, raw.get(name, {}), context)
            if part is not None:
                parts[name] = part
    problems += [problem for problem in _conflicts(parts) if problem not in problems]
    return problems, parts, None


def _section_or_none(section: type[_Section], raw: object, context: dict[str, Any]) -> _Section | None:
    try:
        return section.model_validate(raw, context=context)
    except ValidationError:
        return None


def _section_of(field: FieldInfo) -> type[_Section] | None:
    """The model of a section's field (of each of its items, for `drift`); None for a plain setting."""
    annotation: Any = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, _Section) else None


def _package_problems(parts: Mapping[str, Any], folder: Path) -> Iterator[Problem]:
    """What the packages that learn and watch refuse; `parts` holds the settings that are well-formed."""
    # Imported here: River takes a second to import, and `headrace --help` should not wait for it.
    from learners.errors import LearnerError  # noqa: PLC0415
    from learners.registry import build_learner, learner_names, load_learner  # noqa: PLC0415
    from monitors.drift import drift_problems  # noqa: PLC0415
    from monitors.prequential import metric_problems  # noqa: PLC0415

    task: Task | None = parts.get("task")
    learner: LearnerSettings | None = parts.get("learner")
    metrics: MetricSettings | None = parts.get("metrics")

    if learner is not None and learner.build is not None:
        try:
            load_learner(learner.build, learner.parameters, folder, task=task)
        except LearnerError as error:
            yield ("learner", "build"), f": {error}"
    if task is None:
        return
    if learner is not None and learner.use is not None:
        key = "parameters" if learner.use in learner_names(task) else "use"
        try:
            build_learner(learner.use, task, learner.parameters, learner.seed)
        except LearnerError as error:
            yield ("learner", key), f": {error}"
    if metrics is not None:
        for problem in metric_problems(metrics.use, task):
            yield ("metrics", "use"), f": {problem}"
    for i, item in parts["drift"].items():
        for problem in drift_problems(item.watch, item.detector, item.parameters, task):
            yield ("drift", i), f": {problem}"


# --- Mistakes, in words ----------------------------------------------------------------------------------


def _problems_of(error: ValidationError, raw: Mapping[str, Any]) -> list[Problem]:
    """Say what pydantic found in our words, once for each setting."""
    problems: dict[Location, str] = {}
    for item in error.errors(include_url=False, include_input=False):
        location, field = _locate(item["loc"])
        if item["type"] == "problems":
            for inner, text in item["ctx"]["problems"]:
                problems.setdefault((*location, *inner), text)
        elif item["type"] == "problem":
            problems.setdefault(location, item["ctx"]["text"])
        elif field is None:
            problems.setdefault(location, _unknown(location, isinstance(_value_at(raw, location), dict)))
        elif item["type"] == "missing":
            problems.setdefault(location, f"is missing; expected {expected(field)}.")
        else:
            problems.setdefault(location, _wrong(location, field, _value_at(raw, location)))
    return list(problems.items())


def _locate(location: Location) -> tuple[Location, FieldInfo | None]:
    """Cut what pydantic adds to a location (items of lists, branches of unions); None: no such setting."""
    model: type[_Section] | None = Settings
    field: FieldInfo | None = None
    for i, key in enumerate(location):
        if model is None:
            return location[:i], field
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key)
        if field is None:
            return location[: i + 1], None
        model = _section_of(field)
    return location, field


def _value_at(raw: Any, location: Location) -> object:
    for key in location:
        raw = raw[key]
    return raw


def _wrong(location: Location, field: FieldInfo, value: object) -> str:
    if location == ("drift",):
        hint = (
            "write [[drift]], with two brackets" if isinstance(value, dict) else "expected tables [[drift]]"
        )
        return f"is {_shown(value)}; {hint}."
    if _section_of(field) is not None:
        # The value is not shown: a section may hold a password, and so may what stands in its place.
        return "is not a table; expected a section of settings."
    words = expected(field)
    if SecretStr in _kinds(field.annotation) or location[-1] == "librdkafka":
        return f"is wrong (its value is not shown here); expected {words}."
    near = get_close_matches(value, re.findall('"([^"]+)"', words), n=1) if isinstance(value, str) else []
    hint = f'; did you mean "{near[0]}"?' if near else "."
    return f"is {_shown(value)}; expected {words}{hint}"


def _unknown(location: Location, is_table: bool) -> str:
    """Say where a key that is no setting belongs, or which one was meant."""
    key = str(location[-1])
    sections = {
        name: section for name, field in Settings.model_fields.items() if (section := _section_of(field))
    }
    top = [name for name in Settings.model_fields if name not in sections]
    if len(location) == 1:
        here = list(sections) if is_table else top
    else:
        here = list(sections[str(location[0])].model_fields)
    if key in top and len(location) > 1:
        return "is not a setting of this section; it belongs at the top of the file, above the first section."
    owners = [
        name for name, section in sections.items() if key in section.model_fields and name not in location
    ]
    if owners and not is_table:
        return f"is not a setting here; it belongs in {' or '.join(_header(name) for name in owners)}."
    near = get_close_matches(key, here, n=1) or get_close_matches(key, sections, n=1) * (len(location) == 1)
    if near:
        return f"is not a setting; did you mean {_header(near[0]) if near[0] in sections else near[0]}?"
    return f"is not a setting; expected one of {', '.join(here)}."


def _hint(word: str, valid: Iterable[str]) -> str:
    valid = list(valid)
    near = get_close_matches(word, valid, n=1)
    return f'did you mean "{near[0]}"?' if near else f"expected one of {', '.join(valid)}."


def expected(field: FieldInfo) -> str:
    """Say in words what a setting may be."""
    own = [item.words for item in field.metadata if isinstance(item, Expected)]
    return own[-1] if own else _words(field.annotation)


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, *metadata = get_args(annotation)
        own = [item.words for item in metadata if isinstance(item, Expected)]
        return own[-1] if own else _words(inner)
    if origin in {Union, UnionType}:
        return " or ".join(_words(arg) for arg in get_args(annotation) if arg is not NoneType)
    if origin is Literal:
        return "one of " + ", ".join(f'"{arg}"' for arg in get_args(annotation))
    return "a table"


def _shown(value: object) -> str:
    """Write a value as TOML would, cut to a length that fits a line."""
    match value:
        case bool() | None:
            text = json.dumps(value)
        case str():
            text = json.dumps(value, ensure_ascii=False)
        case date():
            text = value.isoformat()
        case list():
            text = f"[{', '.join(_shown(item) for item in value[:10])}{', ...' if len(value) > 10 else ''}]"
        case dict():
            text = "a table"
        case _:
            try:
                text = str(value)
            except ValueError:  # an integer of thousands of digits
                text = "a huge number"
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= 100 else f"{text[:97]}..."


def _header(section: str) -> str:
    return "[[drift]]" if section == "drift" else f"[{section}]"


def _setting(location: Location) -> str:
    """Write a setting as the file has it: `[labels] expire_after_seconds`."""
    names = [
        key if isinstance(key, int) or re.fullmatch(r"[\w.-]+", key) else _shown(key) for key in location
    ]
    match names:
        case ["drift", int(i), *rest]:
            return " ".join([f"[[drift]] number {i + 1}", *map(str, rest)])
        case [str(section)] if section in Settings.model_fields and _section_of(
            Settings.model_fields[section]
        ):
            return _header(section)
        case [str(name)]:
            return name
        case [str(section), *rest]:
            return f"{_header(section)} {'.'.join(map(str, rest))}"
    return ""


def _place(
    path: Path, location: Location, lines: Mapping[Location, int], origins: Mapping[Location, str]
) -> str:
    """The variable or the line that a setting came from, or the nearest thing around it."""
    for end in range(len(location), 0, -1):
        if location[:end] in origins:
            return origins[location[:end]]
        if location[:end] in lines:
            return f"{path}:{lines[location[:end]]}"
    return str(path)


def _lines(text: str) -> dict[Location, int]:
    """Find the line of each table and key of a TOML text that is known to be valid.

    The text is cut into its statements by asking `tomllib` where each one ends: it is complete as soon as it
    parses.

    Example:
        >>> _lines('name = "a"\\n[[drift]]\\nwatch = "error"\\n[[drift]]\\ndetector = 1')[("drift", 1)]
        4
    """
    found: dict[Location, int] = {}
    table: Location = ()
    items: dict[Location, int] = {}
    statement, first = "", 0
    for number, line in enumerate(text.split("\n"), start=1):
        if not statement:
            first = number
        statement += f"{line}\n"
        # Nothing else ends a statement of several lines; not asking at each line keeps long lists quick.
        if first != number and not any(mark in line for mark in ("]", "}", '"""', "'''")):
            continue
        try:
            parsed = tomllib.loads(statement)
        except tomllib.TOMLDecodeError:
            continue
        if statement.lstrip().startswith("["):
            table = ()
            while parsed:
                key, parsed = next(iter(parsed.items()))
                table = (*table, key)
                if isinstance(parsed, list):
                    items[table] = items.get(table, -1) + 1
                    parsed = parsed[0]
                if table in items:
                    table = (*table, items[table])
            found.setdefault(table, first)
        else:
            for location in _locations(parsed):
                found.setdefault((*table, *location), first)
        statement = ""
    return {_joined(location): line for location, line in found.items()}


def _locations(parsed: Mapping[str, object]) -> Iterator[Location]:
    for key, value in parsed.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *inner) for inner in _locations(value))


def _joined(location: Location) -> Location:
    """librdkafka's dotted keys are one key, also where TOML nests them."""
    if location[:2] == ("kafka", "librdkafka") and len(location) > 2:
        return (*location[:2], ".".join(map(str, location[2:])))
    return location


def _line(location: Location, lines: Mapping[Location, int]) -> int:
    found = (lines[location[:end]] for end in range(len(location), 0, -1) if location[:end] in lines)
    return next(found, 0)


# --- The example and the reference -----------------------------------------------------------------------

_EXAMPLE = """\
# A pipeline: events in, predictions and drift alerts out. What is commented out is a default or an example.
name = "{name}"
task = "binary"                            # binary, multiclass or regression

[kafka]
bootstrap_servers = "127.0.0.1:9092"       # where `headrace broker` listens

[topics]
events = "{name}"                          # the other topics are named after the pipeline
#start = "earliest"                        # or "latest", or a time such as "2026-01-31T00:00:00Z"

[event]                                    # where things are in an event, a JSON object
label = "is_phishing"                      # the right answer; true/false and 1/0 are understood
#positive = "yes"                          # for other labels: the value that means true
features = {{ except = [] }}                 # all others; or a list of fields; or the name of one object
#id = "id"                                 # names a question, so that its answer finds it
#time = "created_at"                       # without it, the time of the Kafka record

[labels]
#expire_after_seconds = 86400              # how long a prediction waits for its label

[learner]
use = "logistic-regression"                # `headrace check` names the others
#parameters = {{ l2 = 0.001 }}
#seed = 42

[metrics]
use = ["accuracy", "roc_auc"]
#window = 1000                             # each is also taken over the last 1000 labels

[[drift]]                                  # one such table for each detector
watch = "error"                            # or "label", "prediction", "feature:NAME"
detector = "adwin"
#parameters = {{ delta = 0.002 }}

[worker]
#delivery = "exactly_once"                 # or "at_least_once"
#commit_interval_ms = 200
"""


def example_settings(name: str = "phishing") -> str:
    """Return a short commented settings file that works as it is with `headrace broker`.

    It fits River's Phishing data as CSV: a column `is_phishing`, the others are features.
    """
    return _EXAMPLE.format(name=name)


def settings_reference() -> str:
    """Write the reference of all settings, in Markdown, from the models."""
    lines = [
        "# Settings",
        "",
        "One TOML file for each pipeline. Written by `python -m stream.settings`; change it there.",
        "",
        "A setting also comes from the environment, which wins over the file: `HEADRACE_TASK`, "
        "`HEADRACE_KAFKA__BOOTSTRAP_SERVERS`, in general `HEADRACE_SECTION__KEY`. Lists and tables are "
        "written as JSON (`HEADRACE_METRICS__USE='[\"accuracy\"]'`, `HEADRACE_DRIFT` for all detectors); an "
        "empty variable counts as not set; a variable that names no setting is a mistake.",
    ]
    plain = {name: field for name, field in Settings.model_fields.items() if _section_of(field) is None}
    lines += ["", "## At the top of the file", "", *_table(plain)]
    for name, field in Settings.model_fields.items():
        section = _section_of(field)
        if section is not None:
            lines += [
                "",
                f"## `{_header(name)}`",
                "",
                section.__doc__ or "",
                "",
                *_table(section.model_fields),
            ]
    return "\n".join(lines) + "\n"


def _table(fields: Mapping[str, FieldInfo]) -> list[str]:
    rows = ["| setting | default | expected | meaning |", "|---|---|---|---|"]
    for name, field in fields.items():
        default = field.get_default(call_default_factory=True, validated_data={})
        if field.is_required():
            shown = "required"
        elif default is None or default == {} or default in ("", ()):
            shown = ""
        else:
            shown = f"`{_shown(default)}`"
        rows.append(f"| `{name}` | {shown} | {expected(field)} | {field.description} |")
    return rows


if __name__ == "__main__":
    sys.stdout.write(settings_reference())
