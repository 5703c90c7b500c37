import dataclasses
import json
import pickle

import pytest

from monitors import Alert, Status

ALERT = Alert(
    kind="drift",
    pipeline="fraud",
    watch="error",
    detector="adwin",
    partition=3,
    offset=1042,
    time=1.5,
    mean_before=0.1,
    mean_after=0.4,
    observed=1000,
)
STATUS = Status(
    pipeline="fraud",
    partition=3,
    worker="fraud-a-0",
    offset=1043,
    end=None,
    lag_records=None,
    events=1043,
    predictions=1043,
    questions=100,
    joined=57,
    learned=1000,
    scored=999,
    dead_letters=2,
    dead_letters_by_stage={"decode": 2, "learn": 0},
    pending=43,
    expired=0,
    expired_early=0,
    expired_learned=0,
    late=0,
    early=0,
    early_waiting=0,
    unmatched=0,
    duplicate_labels=0,
    conflicting_labels=0,
    corrected_labels=0,
    ignored=0,
    duplicates=0,
    label_health={"coverage": 1.0, "late": None},
    label_delay={"p50": 3.5, "p95": 60.0, "count": 57},
    label_delay_histogram={"bounds": [0.0, 10.0], "counts": [0, 40, 17]},
    non_finite=0,
    rate=10.5,
    window=1000,
    metrics={"accuracy": {"value": 0.5, "window": None}},
    baselines={"no_change": {"value": 0.5, "window": None}},
    classes={"predicted": {"true": 1000}, "label": {"false": 10, "true": 990}},
    drift=[{"watch": "error"}],
    learner="LogisticRegression",
    learner_seconds={"predict": 0.00002},
    snapshot=None,
    state="live",
    time=2.5,
)


@pytest.mark.parametrize("record", [ALERT, STATUS])
def test_a_record_is_a_mapping_of_its_fields_that_json_takes(record: Alert | Status) -> None:
    fields = record.to_dict()

    assert fields == dataclasses.asdict(record)
    assert type(record)(**json.loads(json.dumps(fields, allow_nan=False))) == record


@pytest.mark.parametrize("record", [ALERT, STATUS])
def test_a_record_does_not_change_and_survives_a_pickle(record: Alert | Status) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.partition = 4  # type: ignore[misc]  # that it cannot is what is tested

    assert pickle.loads(pickle.dumps(record)) == record
