"""Settings of a pipeline: one TOML file, environment variables over it, a tree of frozen models.

`load_settings` reads both and reports every mistake at once, each with its place.
"""

from stream.settings.connection import KafkaSettings
from stream.settings.example import example_settings
from stream.settings.loading import environment_variables, load_settings, read_addresses
from stream.settings.notifications import NotificationSettings
from stream.settings.snapshots import SnapshotSettings
from stream.settings.tree import (
    AllBut,
    DriftSettings,
    EventSettings,
    HealthSettings,
    LabelSettings,
    LearnerSettings,
    MetricSettings,
    RelaySettings,
    Settings,
    TopicSettings,
    WorkerSettings,
)
from stream.settings.values import Task
from stream.settings.watchdogs import WatchdogSettings

__all__ = [
    "load_settings",
    "example_settings",
    "environment_variables",
    "read_addresses",
    # the tree
    "Settings",
    "KafkaSettings",
    "TopicSettings",
    "EventSettings",
    "AllBut",
    "LabelSettings",
    "RelaySettings",
    "LearnerSettings",
    "MetricSettings",
    "DriftSettings",
    "WorkerSettings",
    "SnapshotSettings",
    "HealthSettings",
    "NotificationSettings",
    "WatchdogSettings",
    "Task",
]
