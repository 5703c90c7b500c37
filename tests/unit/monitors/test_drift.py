import inspect
import math
import os
import pickle
import random
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitors import DETECTORS, Alarm, DriftMonitor, DriftWatch, Task, check_drift, drift_problems
from monitors.drift import histogram

NUMERIC = [name for name, spec in DETECTORS.items() if not spec.binary_input]
BINARY = [name for name, spec in DETECTORS.items() if spec.binary_input]
JUMP = 1000


def jump(before: float, after: float, seed: int = 1, rows: int = 2 * JUMP) -> list[float]:
    """0 and 1, of which the share of ones changes at row `JUMP`."""
    rng = random.Random(seed)
    return [float(rng.random() < (before if i < JUMP else after)) for i in range(rows)]


def watch_errors(monitor: DriftMonitor, errors: list[float]) -> list[tuple[int, Alarm]]:
    return [
        (i, alarm) for i, error in enumerate(errors) for alarm in monitor.labelled(True, error == 0, at=i)
    ]


def river_says(detector: str, errors: list[float]) -> list[tuple[int, str]]:
    """The same detector by hand: drifts, and the first of each run of warnings."""
    spec = DETECTORS[detector]
    river: Any = spec.river(**({"seed": 1} if spec.seedable else {}))
    said: list[tuple[int, str]] = []
    was_warning = False
    for i, error in enumerate(errors):
        river.update(1 - error if detector == "fhddm" else error)
        is_warning = spec.has_warning and river.warning_detected and not river.drift_detected
        if river.drift_detected:
            said.append((i, "drift"))
        elif is_warning and not was_warning:
            said.append((i, "warning"))
        was_warning = is_warning
    return said


@pytest.mark.parametrize("detector", DETECTORS)
@pytest.mark.parametrize("seed", [1, 2])
def test_alarms_are_what_rivers_detector_says(detector: str, seed: int) -> None:
    errors = jump(0.1, 0.6, seed) + jump(0.1, 0.6, seed + 10)
    if detector == "kswin":
        errors = errors[:1300]

    alarms = watch_errors(DriftMonitor([DriftWatch("error", detector)], "binary", seed=1), errors)

    assert [(i, alarm.level) for i, alarm in alarms] == river_says(detector, errors)
    assert any(alarm.level == "drift" for _, alarm in alarms)
    assert any(alarm.level == "warning" for _, alarm in alarms) == DETECTORS[detector].has_warning
    assert all((alarm.watch, alarm.detector) == ("error", detector) for _, alarm in alarms)
    assert all(alarm.observed == i + 1 for i, alarm in alarms)


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_jump_in_the_error_is_found_within_150_values(detector: str) -> None:
    alarms = watch_errors(DriftMonitor([DriftWatch("error", detector)], "binary", seed=1), jump(0.1, 0.6))

    drifts = [i for i, alarm in alarms if alarm.level == "drift"]

    assert any(JUMP <= i < JUMP + 150 for i in drifts)
    if detector != "eddm":  # known for false alarms
        assert not [i for i in drifts if i < JUMP]


@pytest.mark.parametrize("detector", ["adwin", "page-hinkley"])
def test_a_jump_down_is_found_too_by_the_two_sided_detectors(detector: str) -> None:
    alarms = watch_errors(DriftMonitor([DriftWatch("error", detector)], "binary", seed=1), jump(0.6, 0.1))

    assert [i for i, _ in alarms if JUMP <= i < JUMP + 150] == [i for i, _ in alarms]
    assert len(alarms) == 1


@pytest.mark.parametrize("detector", BINARY)
def test_detectors_of_rising_errors_are_not_alarmed_by_a_learner_that_gets_better(detector: str) -> None:
    errors = jump(0.6, 0.1)

    alarms = watch_errors(DriftMonitor([DriftWatch("error", detector)], "binary", seed=1), errors)

    assert not [i for i, alarm in alarms if alarm.level == "drift" and i >= JUMP]


@pytest.mark.parametrize("detector", DETECTORS)
def test_after_a_drift_rivers_detector_starts_afresh_with_the_next_value(detector: str) -> None:
    spec = DETECTORS[detector]
    used: Any = spec.river(**({"seed": 1} if spec.seedable else {}))
    fresh: Any = spec.river(**({"seed": 1} if spec.seedable else {}))
    errors = iter(jump(0.1, 0.6))
    while not used.drift_detected:
        error = next(errors)
        used.update(1 - error if spec.wants_correctness else error)

    after = jump(0.2, 0.7, seed=5, rows=1300)
    told: list[list[int]] = [[], []]
    for i, value in enumerate(after):
        for river, list_of in zip((used, fresh), told, strict=True):
            river.update(1 - value if spec.wants_correctness else value)
            if river.drift_detected:
                list_of.append(i)

    assert told[0] == told[1]
    assert told[0]
    assert told[0][0] > 0


@pytest.mark.parametrize("detector", DETECTORS)
def test_means_are_those_since_the_last_drift_and_of_the_last_100_values(detector: str) -> None:
    errors = jump(0.1, 0.6) + jump(0.1, 0.6, seed=2)
    if detector == "kswin":
        errors = errors[:1300]
    alarms = watch_errors(DriftMonitor([DriftWatch("error", detector)], "binary", seed=1), errors)

    start = 0
    for i, alarm in alarms:
        since = errors[start : i + 1]
        assert alarm.mean_before == pytest.approx(sum(since) / len(since))
        assert alarm.mean_after == pytest.approx(sum(since[-100:]) / len(since[-100:]))
        if alarm.level == "drift":
            start = i + 1
    assert start


def test_a_warning_is_told_when_it_begins_and_not_while_it_lasts() -> None:
    monitor = DriftMonitor([DriftWatch("error", "ddm", {"drift_threshold": 1000.0})], "binary", seed=1)

    alarms = watch_errors(monitor, [float(i % 10 == 0) for i in range(100)] + [1.0] * 30)

    assert [alarm.level for _, alarm in alarms if alarm.observed > 100] == ["warning"]
    assert monitor.status()[0]["state"] == "warning"


@pytest.mark.parametrize(
    ("watch", "expected"), [("error", False), ("label", False), ("prediction", True), ("feature:a", True)]
)
def test_a_monitor_tells_whether_it_wants_to_see_predictions(watch: str, expected: bool) -> None:
    assert DriftMonitor([DriftWatch(watch)], "binary", seed=1).watches_predictions is expected


def test_nothing_to_say_is_the_same_empty_tuple() -> None:
    monitor = DriftMonitor([DriftWatch("error"), DriftWatch("feature:a")], "binary", seed=1)

    assert monitor.labelled(True, True, at=0) is monitor.predicted({"a": 1.0}, True, at=0)


def test_several_watches_speak_for_themselves_and_in_their_order() -> None:
    watches = [DriftWatch("error", "adwin"), DriftWatch("error", "page-hinkley"), DriftWatch("label", "ddm")]
    errors = jump(0.1, 0.6)
    together = watch_errors(DriftMonitor(watches, "binary", seed=1), errors)

    for watch in watches:
        alone = watch_errors(DriftMonitor([watch], "binary", seed=1), errors)
        assert [
            (i, a) for i, a in together if (a.watch, a.detector) == (watch.watch, watch.detector)
        ] == alone
    assert [status["detector"] for status in DriftMonitor(watches, "binary", seed=1).status()] == [
        "adwin",
        "page-hinkley",
        "ddm",
    ]


def drifts(monitor: DriftMonitor) -> list[object]:
    return [status["drifts"] for status in monitor.status()]


def test_the_error_of_a_regression_is_the_absolute_one() -> None:
    monitor = DriftMonitor([DriftWatch("error")], "regression", seed=1)

    alarms = [
        alarm
        for i in range(300)
        for alarm in monitor.labelled(5.0, 4.0 if i % 2 else 6.0 + 3 * (i > 200), at=i)
    ]

    assert len(alarms) == 1
    assert alarms[0].mean_before is not None
    assert 1.0 < alarms[0].mean_before < 2.5


def test_the_error_of_many_classes_is_0_or_1() -> None:
    monitor = DriftMonitor([DriftWatch("error", "hddm-a")], "multiclass", seed=1)

    alarms = [alarm for i in range(300) for alarm in monitor.labelled("a", "b" if i > 200 else "a", at=i)]

    assert "drift" in [alarm.level for alarm in alarms]


def test_without_a_prediction_there_is_no_error_but_there_is_a_label() -> None:
    monitor = DriftMonitor(
        [DriftWatch("error"), DriftWatch("label"), DriftWatch("prediction")], "binary", seed=1
    )

    monitor.predicted({}, None, at=0)
    monitor.labelled(True, None, at=0)

    assert [status["observed"] for status in monitor.status()] == [0, 1, 0]
    assert [status["skipped"] for status in monitor.status()] == [0, 0, 0]


@pytest.mark.parametrize("task", ["binary", "regression"])
def test_labels_and_predictions_are_watched_as_numbers(task: Task) -> None:
    monitor = DriftMonitor([DriftWatch("label"), DriftWatch("prediction")], task, seed=1)
    low, high = (False, True) if task == "binary" else (10.0, 30.0)

    told: list[Alarm] = []
    for i in range(400):
        told += monitor.predicted({}, high if i > 150 else low, at=i)
        told += monitor.labelled(high if i > 300 else low, low, at=i)

    assert [alarm.watch for alarm in told] == ["prediction", "label"]
    assert 150 < told[0].observed < 200
    assert 300 < told[1].observed < 400


def test_one_class_of_several_is_watched_as_0_and_1() -> None:
    watches = [DriftWatch("label:a"), DriftWatch("label:b", "ddm")]
    monitor = DriftMonitor(watches, "multiclass", seed=1)

    told = [
        (alarm.watch, alarm.level)
        for i in range(600)
        for alarm in monitor.labelled("b" if i > 300 or i % 10 == 0 else "ac"[i % 2], "a", at=i)
    ]

    assert ("label:a", "drift") in told
    assert ("label:b", "drift") in told
    a, b = monitor.status()
    assert (a["observed"], b["observed"]) == (600, 600)
    assert (a["mean_now"], b["mean_now"]) == (0.0, 1.0)


def test_the_label_delay_is_watched_on_its_own() -> None:
    monitor = DriftMonitor([DriftWatch("label_delay"), DriftWatch("error")], "binary", seed=1)
    assert monitor.watches_delays
    assert not DriftMonitor([DriftWatch("label")], "binary", seed=1).watches_delays

    told = [alarm for i in range(600) for alarm in monitor.delayed(60.0 if i < 300 else 3_600.0, at=i)]
    monitor.delayed(math.nan, at=600)
    monitor.delayed(-5.0, at=601)

    assert [alarm.watch for alarm in told] == ["label_delay"]
    assert told[0].mean_before is not None
    assert told[0].mean_before > 60.0
    delay, error = monitor.counts()
    assert (delay["observed"], delay["skipped"], error["observed"]) == (601, 1, 0)


def test_a_feature_is_watched_when_the_prediction_is_made_and_what_is_no_number_is_skipped() -> None:
    monitor = DriftMonitor([DriftWatch("feature:a"), DriftWatch("feature:b")], "binary", seed=1)

    for value in (1, 2.5, True, None, "x", math.nan, math.inf, 1e300, 10**400):
        monitor.predicted({"a": value}, None, at=0)

    assert [status["observed"] for status in monitor.status()] == [3, 0]
    assert [status["skipped"] for status in monitor.status()] == [6, 9]


@pytest.mark.parametrize("y_pred", [math.nan, math.inf, -math.inf, 1e300])
def test_an_error_beyond_reckoning_is_skipped_and_later_drifts_are_found(y_pred: float) -> None:
    monitor = DriftMonitor([DriftWatch("error"), DriftWatch("prediction")], "regression", seed=1)

    monitor.predicted({}, y_pred, at=0)
    monitor.labelled(1.0, y_pred, at=0)
    for i in range(1, 400):
        monitor.predicted({}, 1.0 if i < 200 else 3.0, at=i)
        monitor.labelled(1.0, 1.0 if i < 200 else 3.0, at=i)

    assert [status["skipped"] for status in monitor.status()] == [1, 1]
    assert drifts(monitor) == [1, 1]


def test_status_counts_and_remembers_where_the_last_drift_was() -> None:
    monitor = DriftMonitor([DriftWatch("error", "hddm-a")], "binary", seed=1)
    fresh = monitor.status()

    alarms = watch_errors(monitor, jump(0.1, 0.6))

    assert fresh == [
        {
            "watch": "error",
            "detector": "hddm-a",
            "state": "stable",
            "observed": 0,
            "skipped": 0,
            "warnings": 0,
            "drifts": 0,
            "last_drift_at": None,
            "mean_before": None,
            "mean_now": None,
            "distribution": None,
        }
    ]
    status = monitor.status()[0]
    assert status["observed"] == 2 * JUMP
    assert status["drifts"] == sum(alarm.level == "drift" for _, alarm in alarms)
    assert status["warnings"] == sum(alarm.level == "warning" for _, alarm in alarms)
    assert status["last_drift_at"] == [i for i, alarm in alarms if alarm.level == "drift"][-1]


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_pickle_in_mid_stream_gives_the_same_alarms(detector: str) -> None:
    errors = jump(0.1, 0.6, rows=1300)
    whole = DriftMonitor([DriftWatch("error", detector)], "binary", seed=1)
    pickled = DriftMonitor([DriftWatch("error", detector)], "binary", seed=1)

    expected = watch_errors(whole, errors)
    alarms = []
    for i, error in enumerate(errors):
        if i % 37 == 0:
            pickled = pickle.loads(pickle.dumps(pickled))
        alarms += [(i, alarm) for alarm in pickled.labelled(True, error == 0, at=i)]

    assert alarms == expected
    assert alarms
    assert pickled.status() == whole.status()


def kept(values: list[float]) -> list[float]:
    """Every so many-th value, from the first: as many as there can be, up to 512, with a power of two between."""
    stride = 1
    while len(values[::stride]) > 512:
        stride *= 2
    return values[::stride]


def before(concepts: list[list[float]]) -> list[float]:
    """What came before the last 100 values: in this concept, or before its drift as long as that is too little."""
    here = concepts[-1][:-100]
    if len(here) >= 100 or len(concepts) == 1:
        return kept(here)
    there = concepts[-2]
    return kept(there[:-100]) if len(there) >= 200 else there


@pytest.mark.parametrize(("jumps", "rows"), [(2_500, 7_000), (400, 2_500), (150, 1_000), (10**9, 3_000)])
def test_the_values_before_those_of_now_are_of_this_concept_or_what_it_drifted_from(
    jumps: int, rows: int
) -> None:
    watch = DriftWatch("feature:a", "page-hinkley", {"min_instances": 5, "threshold": 5.0, "delta": 0.3})
    monitor = DriftMonitor([watch], "binary", seed=1)
    rng = random.Random(jumps)
    concepts: list[list[float]] = [[]]

    for i in range(rows):
        value = rng.gauss(3.0 * (i // jumps % 2), 0.5)
        concepts[-1].append(value)
        if monitor.predicted({"a": value}, None, at=i):
            concepts.append([])
        if i % 17 == 0:
            monitor = pickle.loads(pickle.dumps(monitor))
        if i % 7 == 0 or len(concepts[-1]) in (0, 1, 99, 100, 101, 199, 200):
            (status,) = monitor.status()
            now = concepts[-1][-100:]
            assert status["distribution"] == histogram(now, before(concepts)), i
            assert status["mean_now"] == (pytest.approx(sum(now) / len(now)) if now else None)
            assert status["mean_before"] == (
                pytest.approx(sum(concepts[-1]) / len(concepts[-1])) if now else None
            )

    assert (len(concepts) > 1) == (jumps < rows)


def test_a_histogram_counts_every_value_of_both_in_the_same_bins() -> None:
    found = histogram([0.0, 2.5, 10.0], [-10.0, 9.99])

    assert found is not None
    assert found["edges"] == [float(edge) for edge in range(-10, 11)]
    assert {bin for bin, n in enumerate(found["now"]) if n} == {10, 12, 19}
    assert {bin for bin, n in enumerate(found["before"]) if n} == {0, 19}
    assert (sum(found["now"]), sum(found["before"])) == (3, 2)


@pytest.mark.parametrize(
    ("now", "earlier", "edges"),
    [
        ([0, True, 1.0], [], [0.0, 0.5, 1.0]),
        ([0.0, 0.0], [0.0], [0.0, 0.5, 1.0]),
        ([], [2.0, 2.0], [2.0, 2.0]),
        ([1e-323], [5e-324], [5e-324, 1e-323]),
    ],
)
def test_a_histogram_of_two_values_or_one_has_no_more_bins(
    now: list[float], earlier: list[float], edges: list[float]
) -> None:
    found = histogram(now, earlier)

    assert found is not None
    assert found["edges"] == edges
    assert (sum(found["now"]), sum(found["before"])) == (len(now), len(earlier))
    assert len(found["now"]) == len(found["before"]) == len(edges) - 1


@given(
    st.lists(st.floats(-1e100, 1e100) | st.integers(-(10**99), 10**99) | st.booleans()),
    st.lists(st.floats(-1e100, 1e100) | st.floats(0.999, 1.001)),
)
def test_any_values_that_are_watched_have_a_histogram(now: list[float], earlier: list[float]) -> None:
    found = histogram(now, earlier)

    if found is None:
        assert not now
        assert not earlier
        return
    assert (sum(found["now"]), sum(found["before"])) == (len(now), len(earlier))
    assert all(math.isfinite(edge) for edge in found["edges"])
    assert found["edges"] == sorted(found["edges"])


def test_the_edges_of_large_numbers_that_differ_by_little_stay_apart() -> None:
    found = histogram([1.7e9, 1.7e9 + 1], [])

    assert found is not None
    assert found["edges"][:2] == [1.7e9, 1_700_000_000.05]


ALARMS = """
import random
from monitors import DETECTORS, DriftMonitor, DriftWatch
rng = random.Random(1)
monitor = DriftMonitor([DriftWatch("error", name) for name in DETECTORS], "multiclass", seed=1)
for i in range(800):
    right = rng.random() > (0.1 if i < 500 else 0.6)
    for alarm in monitor.labelled("a", "a" if right else "b", at=i):
        print(i, alarm)
"""


def test_alarms_do_not_depend_on_the_hash_seed() -> None:
    outputs = [
        subprocess.run(
            [sys.executable, "-c", ALARMS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]

    assert outputs[0] == outputs[1]
    assert all(f"detector='{name}'" in outputs[0] for name in DETECTORS)


def test_kswin_draws_what_the_seed_says() -> None:
    errors = jump(0.3, 0.45, rows=1500)

    def alarms(seed: int, parameters: Mapping[str, object]) -> list[int]:
        monitor = DriftMonitor([DriftWatch("error", "kswin", parameters)], "binary", seed)
        return [i for i, _ in watch_errors(monitor, errors)]

    loose = {"alpha": 0.05}
    assert alarms(1, loose) == alarms(1, loose)
    assert alarms(1, loose) != alarms(2, loose)
    assert alarms(1, loose) == alarms(2, {**loose, "seed": 1})


@pytest.mark.parametrize("detector", DETECTORS)
def test_the_parameters_are_those_of_rivers_constructor_with_its_defaults_allowed(detector: str) -> None:
    spec = DETECTORS[detector]
    signature = inspect.signature(spec.river).parameters

    assert set(spec.parameters) == set(signature) - {"window"}  # KSWIN's start data is state, not a setting
    for name, rule in spec.parameters.items():
        default = signature[name].default
        assert default is None or rule.allows(default)


FITTING: list[tuple[str, str, Task]] = [
    *[(watch, name, "binary") for watch in ("error", "label", "prediction") for name in DETECTORS],
    *[(watch, name, "regression") for watch in ("error", "label", "prediction") for name in NUMERIC],
    *[(watch, name, "multiclass") for watch in ("error", "label:a") for name in DETECTORS],
    *[
        (watch, name, task)
        for watch in ("feature:a", "label_delay")
        for name in NUMERIC
        for task in ("binary", "multiclass", "regression")
    ],
]


@pytest.mark.parametrize(("watch", "detector", "task"), FITTING)
def test_what_fits_is_accepted_and_can_be_built(watch: str, detector: str, task: Task) -> None:
    check_drift(watch, detector, {}, task)

    assert DriftMonitor([DriftWatch(watch, detector)], task, seed=1).status()[0]["watch"] == watch


REFUSED: list[tuple[str, str, dict[str, object], Task, str]] = [
    ("errors", "adwin", {}, "binary", 'watch "errors" is not known; did you mean "error"?'),
    ("loss", "adwin", {}, "binary", "expected error, label, prediction, label_delay or feature:NAME."),
    ("loss", "adwin", {}, "multiclass", "expected error, label_delay, feature:NAME or label:CLASS."),
    ("label-delay", "adwin", {}, "binary", 'did you mean "label_delay"?'),
    ("feature:", "adwin", {}, "binary", "names no feature"),
    ("label:", "adwin", {}, "multiclass", "names no class"),
    ("label:a", "adwin", {}, "binary", 'for one of several classes, task "multiclass"; watch "label" here.'),
    ("label:a", "adwin", {}, "regression", 'for one of several classes, task "multiclass"'),
    ("label", "adwin", {}, "multiclass", 'watch "label:CLASS" or a feature.'),
    ("label_delay", "ddm", {}, "multiclass", 'detector "ddm" takes only 0 and 1'),
    ("label", "adwin", {}, "multiclass", "is a class of many here"),
    ("prediction", "ddm", {}, "multiclass", "is a class of many here"),
    ("error", "page_hinkley", {}, "binary", 'did you mean "page-hinkley"?'),
    ("error", "zzz", {}, "binary", "expected one of: adwin, kswin, page-hinkley, ddm,"),
    ("error", "ddm", {}, "regression", 'detector "ddm" takes only 0 and 1'),
    ("label", "fhddm", {}, "regression", 'detector "fhddm" takes only 0 and 1'),
    ("feature:a", "eddm", {}, "binary", 'detector "eddm" takes only 0 and 1'),
    (
        "error",
        "adwin",
        {"detla": 0.1},
        "binary",
        'parameter "detla" of adwin is not known; did you mean "delta"?',
    ),
    ("error", "kswin", {"window": [1]}, "binary", 'parameter "window" of kswin is not known'),
    (
        "error",
        "adwin",
        {"delta": "0.1"},
        "binary",
        "is '0.1'; expected a number above 0 and at most 0.999999.",
    ),
    ("error", "adwin", {"delta": 0.0}, "binary", "expected a number above 0"),
    ("error", "adwin", {"delta": math.nan}, "binary", "expected a number above 0"),
    ("error", "adwin", {"clock": 32.0}, "binary", "a whole number of at least 1 and at most 1,000,000."),
    ("error", "adwin", {"clock": True}, "binary", "expected a whole number"),
    ("error", "adwin", {"clock": 10**30}, "binary", "expected a whole number"),
    ("error", "hddm-a", {"two_sided_test": 1}, "binary", "is 1; expected true or false."),
    ("error", "page-hinkley", {"mode": "sideways"}, "binary", "expected one of: up, down, both."),
    ("error", "kswin", {"stat_size": 60}, "binary", "a window of at least twice stat_size"),
    (
        "error",
        "fhddm",
        {"short_window_size": 200},
        "binary",
        "is 200; expected at most sliding_window_size, 100.",
    ),
    ("error", "eddm", {"alpha": 0.5}, "binary", "is below beta (drift), 0.9"),
]


@pytest.mark.parametrize(("watch", "detector", "parameters", "task", "expected"), REFUSED)
def test_what_does_not_fit_is_refused_in_a_sentence(
    watch: str, detector: str, parameters: dict[str, object], task: Task, expected: str
) -> None:
    with pytest.raises(ValueError, match=r"expected|did you mean|use|watch") as refused:
        check_drift(watch, detector, parameters, task)

    assert expected in str(refused.value)
    with pytest.raises(ValueError, match=r"expected|did you mean|use|watch"):
        DriftMonitor([DriftWatch(watch, detector, parameters)], task, seed=1)


def test_every_problem_of_a_watch_is_told_at_once() -> None:
    assert len(drift_problems("errors", "adwin", {"detla": 1, "clock": 0}, "binary")) == 3


def test_the_same_watch_twice_is_refused() -> None:
    with pytest.raises(ValueError, match='"error" is watched by adwin twice'):
        DriftMonitor([DriftWatch("error"), DriftWatch("error", "adwin", {"delta": 0.1})], "binary", seed=1)
