"""Settings of a pipeline: one TOML file, environment variables over it, a tree of frozen models.

`load_settings` reads both and reports every mistake at once, each with its place.
"""

from stream.settings.connection import KafkaSettings
from stream.settings.example import example_settings
from stream.settings.loading import environment_variables, load_settings
from stream.settings.tree import (
    AllBut,
    DriftSettings,
    EventSettings,
    LabelSettings,
    LearnerSettings,
    MetricSettings,
    Settings,
    TopicSettings,
    WorkerSettings,
)
from stream.settings.values import Task

__all__ = [
    "load_settings",
    "example_settings",
    "environment_variables",
    # the tree
    "Settings",
    "KafkaSettings",
    "TopicSettings",
    "EventSettings",
    "AllBut",
    "LabelSettings",
    "LearnerSettings",
    "MetricSettings",
    "DriftSettings",
    "WorkerSettings",
    "Task",
]
