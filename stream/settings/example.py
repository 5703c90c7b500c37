"""The settings file that `headrace init` writes."""

from __future__ import annotations

_EXAMPLE = """\
# A pipeline: events in, predictions and drift alerts out. What is commented out is a default or an example.
name = "{name}"
task = "binary"                            # binary, multiclass or regression

[kafka]
bootstrap_servers = "127.0.0.1:9092"       # where `headrace broker` listens

[topics]
events = "{name}"                          # the other topics are named after the pipeline
#start = "earliest"                        # or "latest", or a time such as "2026-01-31T00:00:00Z"
#outcomes = "{name}.outcomes"              # what becomes of each prediction, for `headrace outcomes`

[event]                                    # where things are in an event, a JSON object
label = "is_phishing"                      # the right answer; true/false and 1/0 are understood
#positive = "yes"                          # for other labels: the value that means true
features = {{ except = [] }}                 # all others; or a list of fields; or the name of one object
#id = "id"                                 # names a question, so that its answer finds it
#time = "created_at"                       # without it, the time of the Kafka record
#duplicates = "mark"                       # an event that comes twice: or "repeat" or "drop" its prediction

[labels]                                   # of events whose label comes later, in a record with the same id
#topic = "{name}-labels"                   # if those records are in a topic of their own: not made by `topics create`
#expire_after_seconds = 86400              # how long a prediction waits for its label
#silence = "no"                            # what it means that none came; without it those are dropped
#conflict = "first"                        # of two labels the first counts; "correct" learns the other as well
#early_seconds = 600                       # how long a label waits for its question
#capacity = 100000                         # most predictions that wait, for each partition

[learner]
use = "logistic-regression"                # `headrace catalog` lists the others
#parameters = {{ l2 = 0.001 }}
#seed = 42

[metrics]
use = ["accuracy", "roc_auc"]
#window = 1000                             # each is also taken over the last 1000 labels

[[drift]]                                  # one such table for each detector
watch = "error"                            # or "label", "prediction", "label_delay", "feature:NAME"
detector = "adwin"
#parameters = {{ delta = 0.002 }}

[snapshots]                                # a restart goes on from these
#location = ".headrace/snapshots"          # or an address such as "s3://bucket/prefix"

[worker]
#delivery = "exactly_once"                 # or "at_least_once"
#commit_interval_ms = 200
"""


def example_settings(name: str = "phishing") -> str:
    """Return a short commented settings file that works as it is with `headrace broker`.

    It fits River's Phishing data as CSV: a column `is_phishing`, the others are features.
    """
    return _EXAMPLE.format(name=name)
