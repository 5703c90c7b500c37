"""What the control plane knows of its pipelines: a fold over their status and alerts topics. Pure: no I/O, no clock."""

from monitors.fleet.fleet import Fleet, PartitionState, PipelineFacts, PipelineState, SeenAlert
from monitors.fleet.reading import Unreadable, read_alert, read_status
from monitors.fleet.relay import RelayState, Source, Standing
from monitors.fleet.series import Series
from monitors.fleet.watchdogs import Bounds, Watchdog, Watchdogs

__all__ = [
    "Bounds",
    "Fleet",
    "PartitionState",
    "PipelineFacts",
    "PipelineState",
    "RelayState",
    "SeenAlert",
    "Series",
    "Source",
    "Standing",
    "Unreadable",
    "Watchdog",
    "Watchdogs",
    "read_alert",
    "read_status",
]
