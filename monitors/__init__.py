"""What watches: prequential metrics and drift detectors, pure Python over River. Knows nothing of Kafka."""

from monitors.drift import (
    DETECTORS,
    Alarm,
    DetectorSpec,
    DriftMonitor,
    DriftWatch,
    check_drift,
    drift_problems,
)
from monitors.labels import LABEL_COUNTS, add_histograms, delay_histogram, label_health, labels_that_came
from monitors.prequential import (
    METRICS,
    MetricSpec,
    Prequential,
    check_metrics,
    metric_names,
    metric_problems,
    weighted_mean,
)
from monitors.records import (
    Alert,
    Figures,
    Incident,
    Label,
    Level,
    Severity,
    SnapshotFacts,
    Status,
    Task,
    ranges,
)

__all__ = [
    # records
    "Alert",
    "Figures",
    "Incident",
    "Label",
    "Level",
    "Severity",
    "SnapshotFacts",
    "Status",
    "Task",
    "ranges",
    # labels
    "LABEL_COUNTS",
    "add_histograms",
    "delay_histogram",
    "label_health",
    "labels_that_came",
    # prequential metrics
    "METRICS",
    "MetricSpec",
    "Prequential",
    "check_metrics",
    "metric_names",
    "metric_problems",
    "weighted_mean",
    # drift
    "DETECTORS",
    "Alarm",
    "DetectorSpec",
    "DriftMonitor",
    "DriftWatch",
    "check_drift",
    "drift_problems",
]
