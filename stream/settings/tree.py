"""The sections of a settings file and the tree they make; every model is frozen."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, Field, PrivateAttr, model_validator
from pydantic.fields import FieldInfo

from stream.records import RelayedKind
from stream.settings.connection import KafkaSettings
from stream.settings.notifications import NotificationSettings
from stream.settings.snapshots import SnapshotSettings
from stream.settings.values import (
    FieldName,
    FieldNames,
    Name,
    Parameters,
    Problem,
    Seconds,
    Section,
    Task,
    Text,
    TopicName,
    problem,
    refuse,
    whole,
)
from stream.settings.watchdogs import WatchdogSettings
from stream.settings.words import LISTS, Expected, hint_at, shown

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


def _start(value: object) -> object:
    if isinstance(value, str) and value not in {"earliest", "latest"}:
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return value
    if isinstance(value, datetime) and value.tzinfo is None:
        raise problem(
            f"is {value.isoformat()}, a time without a zone; end it with Z (UTC) or an offset as +02:00."
        )
    return value


class TopicSettings(Section):
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


class AllBut(Section):
    """`features = { except = ["a", "b"] }`: all top-level fields but these (and id, time and label)."""

    except_: FieldNames = Field(alias="except")


class EventSettings(Section):
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
    duplicates: Literal["mark", "repeat", "drop"] = Field(
        default="mark",
        description="An event whose id was seen before is not learned. Its prediction is the first one's, with the "
        "first one's offset as `duplicate_of` (`mark`) or without (`repeat`), or there is none (`drop`).",
    )
    id_window: Annotated[int, Field(ge=0, le=10_000_000), whole(0, 10_000_000)] = Field(
        default=10_000,
        description="How many of the last ids are remembered to know a duplicate, for each partition; each takes "
        "about half a kilobyte, in each snapshot too. 0: none, for ids that are not one event's.",
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
        refuse(problems)
        return self


class LabelSettings(Section):
    """Where labels come from, how long predictions and labels wait for each other, and what silence means."""

    topic: TopicName | None = Field(
        default=None,
        description="A topic of their own that labels come from; the relay brings them into the events topic, "
        "partition p to partition p. Without it they are in the events topic.",
    )
    id: FieldName | None = Field(
        default=None,
        description="In that topic: field with the id of the event that is labelled; by default as in `[event]`.",
    )
    time: FieldName | None = Field(
        default=None,
        description="In that topic: field with the label's time; by default as in `[event]`. Without it, the record's "
        "timestamp.",
    )
    label: FieldName | None = Field(
        default=None, description="In that topic: field with the label; by default as in `[event]`."
    )
    positive: Annotated[str | bool | int | None, Expected("a text, a whole number, true or false")] = Field(
        default=None,
        description="In that topic: the label's value that means true; by default as in `[event]`.",
    )
    expire_after_seconds: Seconds = Field(
        default=86_400.0,
        description="How long a prediction waits; a label after that is late and not learned.",
    )
    silence: Annotated[str | bool | int | float | None, Expected("a label as in an event")] = Field(
        default=None,
        description="The label of a prediction that none came for in time, where silence means something: `false` for "
        "clicks or chargebacks. It is scored and learned. Without it such a prediction is dropped.",
    )
    early_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False), Expected("a number >= 0")] = Field(
        default=600.0,
        description="How long a label that comes before its question is kept; then it is unmatched.",
    )
    conflict: Literal["first", "correct"] = Field(
        default="first",
        description="Of two different labels for one question: `first`, the first counts, the other is only counted; "
        "`correct`, the other is learned as well. Metrics keep the first.",
    )
    capacity: Annotated[int, Field(ge=1), whole(1)] = Field(
        default=100_000,
        description="Most predictions that wait, for each partition; beyond, the oldest expires. As many labels may "
        "wait for their question.",
    )
    remember: Annotated[int, Field(ge=0), whole(0)] = Field(
        default=100_000,
        description="How many answered and expired questions are remembered, for each partition: a label for one is "
        "late, a duplicate or conflicting; one for a forgotten question is unmatched.",
    )


class RelaySettings(Section):
    """Other topics whose events are brought into the events topic, so that one log has the one order of things."""

    events: Annotated[
        tuple[TopicName, ...], Field(strict=False), Expected("a list of names of Kafka topics")
    ] = Field(
        default=(),
        description="Topics that the events come from. If the events topic has one partition, all of theirs go there: "
        "one learner. Otherwise each must have as many, and partition p goes to partition p.",
    )


class LearnerSettings(Section):
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
    seed: Annotated[int, Field(ge=0, le=2**32 - 1), whole(0, 2**32 - 1)] = Field(
        default=42, description="Seed of all that is random in the learner."
    )

    @model_validator(mode="after")
    def _check(self) -> LearnerSettings:
        if self.use is None and self.build is None:
            refuse([(("use",), 'is missing; expected the name of a learner (or build = "module:function").')])
        if self.use is not None and self.build is not None:
            refuse([(("build",), "and use are both given; expected one of them.")])
        return self


class MetricSettings(Section):
    """What is measured, on predictions made before their label was learned."""

    use: Annotated[
        tuple[Text, ...], Field(strict=False, min_length=1), Expected("a list of names of metrics")
    ] = Field(
        default=(),
        description="Names of metrics; the first is set beside the baselines. By default `accuracy` and "
        "`roc_auc` (binary), `accuracy` and `macro_f1` (multiclass), `mae` and `rmse` (regression).",
    )
    window: Annotated[int, Field(ge=10, le=10_000), whole(10, 10_000)] = Field(
        default=1000, description="Each metric is also taken over this many last labels."
    )


class DriftSettings(Section):
    """A drift detector and what it watches. One table `[[drift]]` for each; none by default."""

    watch: Annotated[
        Text, Expected('"error", "label", "label:CLASS", "label_delay", "prediction" or "feature:NAME"')
    ] = Field(
        description="`error`, `label`, `prediction`, `label:CLASS` for how often one of several classes comes, "
        "`label_delay` for how long labels take, or `feature:NAME` for a numeric feature."
    )
    detector: Annotated[Text, Expected("the name of a detector")] = Field(
        description="Name of a detector, such as `adwin`."
    )
    parameters: Parameters = Field(default_factory=dict, description="Parameters of the detector, by name.")


class WorkerSettings(Section):
    """How a worker commits and reports."""

    delivery: Literal["exactly_once", "at_least_once"] = Field(
        default="exactly_once",
        description="`at_least_once` works without transactions; after a crash some outputs may repeat.",
    )
    commit_interval_ms: Annotated[int, Field(ge=1, le=60_000), whole(1, 60_000)] = Field(
        default=200, description="Longest time between commits, in milliseconds; at low rates it is shorter."
    )
    status_interval_seconds: Seconds = Field(
        default=5.0, description="Time between status records, in seconds."
    )
    instance: Name | None = Field(
        default=None,
        description="Name of this machine among those that run the pipeline; without it, the host name. "
        "Part of the transactional id, so it must survive a restart.",
    )
    transaction_timeout_ms: Annotated[int, Field(ge=1000, le=900_000), whole(1000, 900_000)] = Field(
        default=10_000,
        description="After this time the broker ends a dead worker's transaction, in milliseconds.",
    )
    session_timeout_ms: Annotated[int, Field(ge=1000, le=1_800_000), whole(1000, 1_800_000)] = Field(
        default=10_000,
        description="After this time a silent worker loses its partitions, in milliseconds; brokers refuse "
        "less than 6000 unless told otherwise.",
    )
    dead_letter_budget: Annotated[int, Field(ge=0), whole(0)] = Field(
        default=10_000,
        description="More dead letters than this within `dead_letter_window_seconds` stop the worker, with exit "
        "code 5; 0 stops it at the first.",
    )
    dead_letter_window_seconds: Seconds = Field(
        default=60.0, description="The time within which dead letters are counted, in seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> WorkerSettings:
        if self.commit_interval_ms > self.transaction_timeout_ms // 2:
            text = (
                f"is {self.commit_interval_ms}; expected at most half of transaction_timeout_ms "
                f"({self.transaction_timeout_ms}), or the broker would end a transaction in use."
            )
            refuse([(("commit_interval_ms",), text)])
        return self


class HealthSettings(Section):
    """Where a worker says whether it is alive and ready: `/healthz` and `/readyz`."""

    host: Text = Field(
        default="127.0.0.1",
        description="Address to listen at; `0.0.0.0` lets other machines ask, as probes in a cluster do.",
    )
    port: Annotated[int, Field(ge=0, le=65_535), whole(0, 65_535)] = Field(
        default=8811,
        description="Port of the first worker on a machine; each further one takes the next. 0: no endpoint. If it "
        "is taken, a worker goes on without, unless host or port are set: then it refuses to start.",
    )


class Settings(Section):
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
    relay: RelaySettings = RelaySettings()
    learner: LearnerSettings
    metrics: MetricSettings = MetricSettings()
    drift: Annotated[tuple[DriftSettings, ...], Field(strict=False)] = ()
    worker: WorkerSettings = WorkerSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    health: HealthSettings = HealthSettings()
    notifications: Annotated[tuple[NotificationSettings, ...], Field(strict=False)] = ()
    watchdogs: WatchdogSettings = WatchdogSettings()

    _path: Path = PrivateAttr(default=Path("settings.toml"))

    @model_validator(mode="before")
    @classmethod
    def _fill_defaults(cls, raw: Any) -> Any:
        return with_defaults(raw) if isinstance(raw, dict) else raw

    @model_validator(mode="after")
    def _check(self) -> Settings:
        refuse(conflicts(parts_of(self)))
        return self

    @property
    def path(self) -> Path:
        """The file that these settings came from."""
        return self._path

    @property
    def folder(self) -> Path:
        """The folder of the file; the user's own learner is imported from there."""
        return self._path.absolute().parent

    @property
    def relayed_topics(self) -> dict[str, RelayedKind]:
        """The topics that the relay reads, and what comes from each; empty if none is needed."""
        topics: dict[str, RelayedKind] = dict.fromkeys(self.relay.events, "events")
        if self.labels.topic is not None:
            topics[self.labels.topic] = "labels"
        return topics

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
            # Where a record was relayed from says its header: a fold does not depend on a topic's name.
            "labels": self.labels.model_dump(mode="json", exclude={"topic"}),
            "learner": learner,
            "metrics": self.metrics.model_dump(mode="json"),
            "drift": [item.model_dump(mode="json") for item in self.drift],
        }
        return {name: _digest(part) for name, part in parts.items()}


def _digest(value: object) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def with_defaults(raw: Mapping[str, Any]) -> dict[str, Any]:
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


def parts_of(settings: Settings) -> dict[str, Any]:
    """Return the settings by name; what there may be several of by its place."""
    return dict(settings) | {name: dict(enumerate(getattr(settings, name))) for name in LISTS}


def conflicts(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """Settings that don't go together; `parts` holds the top-level settings that are well-formed."""
    topics: TopicSettings | None = parts.get("topics")
    event: EventSettings | None = parts.get("event")
    drift: Mapping[int, DriftSettings] = parts["drift"]
    notifications: Mapping[int, NotificationSettings] = parts["notifications"]
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

    yield from _relay_problems(parts)

    if event is not None and event.positive is not None and task in {"multiclass", "regression"}:
        yield ("event", "positive"), f"is for the binary task, not for {task}; leave it out."

    labels: LabelSettings | None = parts.get("labels")
    if labels is not None and labels.silence is not None and event is not None and task is not None:
        yield from _silence_problems(labels.silence, task, event.positive)

    seen: dict[tuple[str, str], int] = {}
    for i, item in drift.items():
        first = seen.setdefault((item.watch, item.detector), i)
        if first != i:
            text = f'watches "{item.watch}" with {item.detector} like number {first + 1}; expected it once.'
            yield ("drift", i), text
        kind, _, feature = item.watch.partition(":")
        features = event.features if event is not None else None
        if kind == "feature" and feature and isinstance(features, tuple) and feature not in features:
            text = f'is "{item.watch}", which is not among [event] features; {hint_at(feature, features)}'
            yield ("drift", i, "watch"), text

    names: dict[str, int] = {}
    for i, channel in notifications.items():
        first = names.setdefault(channel.name_at(i), i)
        if first != i:
            text = f'is "{channel.name_at(i)}", as that of number {first + 1} is; expected another one.'
            yield ("notifications", i, "name"), text


def _relay_problems(parts: Mapping[str, Any]) -> Iterator[Problem]:
    """What is wrong with the topics that are relayed, and with where things are in a label."""
    topics: TopicSettings | None = parts.get("topics")
    event: EventSettings | None = parts.get("event")
    labels: LabelSettings | None = parts.get("labels")
    relay: RelaySettings | None = parts.get("relay")

    taken: dict[str, str] = {}
    if topics is not None:
        for key in ("events", *DEFAULT_TOPICS, "outcomes"):
            taken.setdefault(getattr(topics, key) or "", f"[topics] {key}")
    if labels is not None and labels.topic is not None and labels.topic in taken:
        hint = (
            "; leave it out, if that is where the labels are"
            if taken[labels.topic] == "[topics] events"
            else ""
        )
        text = f'is "{labels.topic}", as {taken[labels.topic]} is; expected a topic of its own{hint}.'
        yield ("labels", "topic"), text
    for name in relay.events if relay is not None else ():
        if taken.get(name) == "[relay] events":
            yield ("relay", "events"), f'names "{name}" twice; expected it once.'
        elif name in taken:
            text = f'names "{name}", as {taken[name]} does; expected topics that events are brought from.'
            yield ("relay", "events"), text
        elif labels is not None and name == labels.topic:
            text = f'names "{name}", as [labels] topic does; its records would come twice.'
            yield ("relay", "events"), text
        taken.setdefault(name, "[relay] events")

    if labels is None:
        return
    if labels.positive is not None and parts.get("task") in {"multiclass", "regression"}:
        yield ("labels", "positive"), f"is for the binary task, not for {parts['task']}; leave it out."
    if labels.topic is None:
        for key in ("id", "time", "label", "positive"):
            if getattr(labels, key) is not None:
                text = "is for labels in a topic of their own; name it in [labels] topic, or leave this out."
                yield ("labels", key), text
    elif event is not None:
        fields: dict[str, str] = {}
        for key in ("id", "time", "label"):
            name = getattr(labels, key) or getattr(event, key)
            if name is not None and name in fields:
                yield ("labels", key), f'is "{name}", as {fields[name]} is; expected another field.'
            elif name is not None:
                fields[name] = key


def _silence_problems(silence: object, task: str, positive: object) -> Iterator[Problem]:
    """What is wrong with the label that silence means, for a task."""
    kind = type(silence)
    if task == "regression":
        right = (kind is float or kind is int) and -1e100 <= silence <= 1e100  # type: ignore[operator]  # a number
        words = "a number between -1e100 and 1e100 (regression)"
    elif task == "multiclass":
        right = len(str(silence)) <= 128
        words = "at most 128 characters, as a label has"
    elif positive is None:
        right = kind is bool or silence in {"true", "false", "0", "1"} or (kind is int and silence in {0, 1})
        words = "true or false"
    else:
        right = (kind is str) == (type(positive) is str)
        words = f"a label of the kind of [event] positive, {json.dumps(positive)}"
    if not right:
        yield ("labels", "silence"), f"is {shown(silence)}; expected {words}."


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the model of a section's field (of each of its items, for a list); None for a plain setting."""
    annotation: Any = field.annotation
    if get_origin(annotation) is tuple:
        annotation = get_args(annotation)[0]
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None
