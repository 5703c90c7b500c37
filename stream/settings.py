"""Settings of a pipeline: one TOML file, overridden by environment variables, a tree of frozen models.

`load_settings` reads both, and reports every mistake at once, each with its place. Nothing else in Headrace reads
`os.environ`: what a module needs to know is handed to it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator

Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True, slots=True)
class Expected:
    """What a setting may be, in words: the second half of "is -5; expected a number > 0"."""

    words: str


Text = Annotated[str, Field(min_length=1, max_length=1000), Expected("a text")]
FieldName = Annotated[str, Field(min_length=1, max_length=128), Expected("the name of a field")]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False), Expected("a number > 0")]
File = Annotated[Path, Field(strict=False), Expected("the path of a file")]
Secret = Annotated[SecretStr, Expected("a text")]
TopicName = Annotated[
    str,
    Field(pattern=r"^[a-zA-Z0-9._-]{1,249}$"),
    Expected("the name of a Kafka topic (1 to 249 of a-z, A-Z, 0-9, dot, underscore and hyphen)"),
]


NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,99}$")

#: What is measured when the settings don't say, for each task.
DEFAULT_METRICS: dict[str, tuple[str, ...]] = {
    "binary": ("accuracy", "roc_auc"),
    "multiclass": ("accuracy", "macro_f1"),
    "regression": ("mae", "rmse"),
}

#: The topics that are named after the pipeline unless the settings name them.
DEFAULT_TOPICS = {
    "predictions": "{name}.predictions",
    "alerts": "{name}.alerts",
    "dead_letters": "{name}.dead-letters",
    "status": "{name}.status",
}


class _Section(BaseModel):
    # A wrong type in the file is a mistake, not something to convert; no error shows a value by itself.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class KafkaSettings(_Section):
    """How every client reaches the brokers."""

    bootstrap_servers: Text = Field(default="127.0.0.1:9092")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    ca_file: File | None = None
    certificate_file: File | None = None
    key_file: File | None = None
    key_password_file: File | None = None
    key_password: Secret | None = None
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    sasl_username: Text | None = None
    sasl_password_file: File | None = None
    sasl_password: Secret | None = None
    #: Text as librdkafka takes it ("true", "5"); secret, because some of its keys are passwords.
    librdkafka: dict[str, SecretStr] = Field(default_factory=dict)


class TopicSettings(_Section):
    """The topics of the pipeline."""

    events: TopicName
    start: Literal["earliest", "latest"] | datetime = "earliest"
    predictions: TopicName = ""
    alerts: TopicName = ""
    dead_letters: TopicName = ""
    status: TopicName = ""
    outcomes: TopicName | None = None


class AllBut(_Section):
    """`features = { except = ["a", "b"] }`: all top-level fields but these (and id, time and label)."""

    except_: tuple[FieldName, ...] = Field(alias="except", strict=False)


class EventSettings(_Section):
    """Where things are in an event."""

    id: FieldName | None = "id"
    time: FieldName | None = None
    label: FieldName = "label"
    features: FieldName | Annotated[tuple[FieldName, ...], Field(strict=False)] | AllBut = "features"
    positive: str | bool | int | None = None
    max_ahead_seconds: Seconds = 3600.0


class LabelSettings(_Section):
    """How long a prediction waits for its label."""

    expire_after_seconds: Seconds = 86_400.0
    capacity: int = Field(default=100_000, ge=1)


class LearnerSettings(_Section):
    """What learns."""

    use: Text | None = None
    build: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    seed: int = Field(default=42, ge=0, le=2**32 - 1)


class MetricSettings(_Section):
    """What is measured."""

    use: tuple[Text, ...] = Field(default=(), strict=False)
    window: int = Field(default=1000, ge=10, le=10_000)


class DriftSettings(_Section):
    """One drift detector and what it watches."""

    watch: str
    detector: str
    parameters: dict[str, Any] = Field(default_factory=dict)


class WorkerSettings(_Section):
    """How the worker commits and reports."""

    delivery: Literal["exactly_once", "at_least_once"] = "exactly_once"
    commit_interval_ms: int = Field(default=200, ge=1)
    status_interval_seconds: Seconds = 5.0
    instance: str | None = None
    transaction_timeout_ms: int = Field(default=10_000, ge=1000, le=900_000)
    session_timeout_ms: int = Field(default=10_000, ge=6000, le=1_800_000)


class Settings(_Section):
    """The settings of one pipeline."""

    name: str = Field(pattern=NAME.pattern)
    task: Task
    kafka: KafkaSettings = KafkaSettings()
    topics: TopicSettings
    event: EventSettings = EventSettings()
    labels: LabelSettings = LabelSettings()
    learner: LearnerSettings
    metrics: MetricSettings = MetricSettings()
    drift: tuple[DriftSettings, ...] = Field(default=(), strict=False)
    worker: WorkerSettings = WorkerSettings()

    _path: Path = PrivateAttr(default=Path("settings.toml"))

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, raw: Any) -> Any:
        return _with_defaults(raw) if isinstance(raw, dict) else raw

    @property
    def path(self) -> Path:
        """The file that these settings came from."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder of the file; the user's own learner is imported from there."""
        return self._path.resolve().parent

    def shape(self) -> dict[str, str]:
        """Short digests of what shapes a partition's state, by section: equal digests, equal fold."""
        raise NotImplementedError


def _with_defaults(raw: dict[str, Any]) -> dict[str, Any]:
    """Add the defaults that depend on other settings: topic names on the name, metrics on the task."""
    raw = {"topics": {}, "learner": {}, "metrics": {}} | raw
    name, task, topics, metrics = raw.get("name"), raw.get("task"), raw["topics"], raw["metrics"]
    if isinstance(topics, BaseModel):
        topics = topics.model_dump(exclude_unset=True)
    if isinstance(metrics, BaseModel):
        metrics = metrics.model_dump(exclude_unset=True)
    if isinstance(topics, dict) and isinstance(name, str) and NAME.fullmatch(name):
        raw["topics"] = {key: text.format(name=name) for key, text in DEFAULT_TOPICS.items()} | topics
    if isinstance(metrics, dict) and isinstance(task, str) and task in DEFAULT_METRICS:
        raw["metrics"] = {"use": DEFAULT_METRICS[task]} | metrics
    return raw


def load_settings(path: Path, environ: Mapping[str, str] | None = None) -> Settings:
    """Read a settings file and the environment over it; raise `ConfigError` with all mistakes at once."""
    import tomllib

    settings = Settings.model_validate(tomllib.loads(Path(path).read_text()))
    settings._path = Path(path)
    return settings
