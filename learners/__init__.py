"""What learns: River estimators by name or by a function of your own.

Knows River only: nothing of Kafka, of settings files or of what watches the learner.
"""

from learners.checks import check_learner, find_problems
from learners.errors import LearnerError
from learners.learner import TASKS, Features, Label, Learner, Prediction, Scores, Task
from learners.registry import (
    LEARNERS,
    LearnerSpec,
    build_learner,
    digest_of_source,
    learner_names,
    load_learner,
)

__all__ = [
    # what the event path calls
    "Learner",
    "Features",
    "Label",
    "Prediction",
    "Scores",
    "Task",
    "TASKS",
    # by name
    "LEARNERS",
    "LearnerSpec",
    "build_learner",
    "learner_names",
    # your own
    "check_learner",
    "digest_of_source",
    "find_problems",
    "load_learner",
    "LearnerError",
]
