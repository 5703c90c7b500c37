from __future__ import annotations

import functools
import gc
import hashlib
import hmac
import importlib
import os
import pickle
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from river import dummy, preprocessing

from learners.checks import example_rows
from learners.learner import Learner, Task
from learners.registry import LEARNERS
from monitors import DriftMonitor
from monitors.drift import DETECTORS, drift_problems
from monitors.prequential import metric_names
from stream.build import new_pipeline
from stream.checkpoint import state_shape
from stream.errors import SnapshotError
from stream.pipeline import State
from stream.records import Record
from stream.settings import Settings
from stream.snapshots.file import (
    MAGIC,
    SEAL_BYTES,
    Fold,
    Payload,
    Sealed,
    Tried,
    opened,
    pickled,
    sealed,
    unpickled,
)
from tests.helpers import body, canonical, record, settings_for

KEY = b"k" * 32
#: What a forged payload would make: proof that it ran.
PROOF = "forged"
SHAPE = {"learner": "digest", "python": "3.11", "river": "0.26.1"}
FOLD = Fold(pipeline="p", topic="events", topic_id="t-1", partition=3, origin=10, base="", shape=SHAPE)


def rows_of(task: Task, n: int) -> list[Record]:
    """Labelled events, questions with answers and garbage."""
    found = []
    for i, (x, y) in enumerate(example_rows(task, strings=True, n=n)):
        match i % 10:
            case 3:
                found.append(body(id=i, features=x))
            case 6:
                found.append(body(id=i - 3, label=y))
            case 9:
                found.append(b"garbage")
            case _:
                found.append(body(features=x, label=y))
    return [record(value, offset=i) for i, value in enumerate(found)]


def state_after(n: int, config: Settings | None = None) -> State:
    pipeline = new_pipeline(config or settings_for("regression"))
    for item in rows_of(pipeline.state.learner.task, n):
        pipeline.process(item)
    return pipeline.state


def seal(
    state: State, *, payload: bytes | None = None, fold: Fold = FOLD, next_offset: int = 42, key: bytes = KEY
) -> Sealed:
    return sealed(
        pickled(state) if payload is None else Payload(payload),
        Tried.of(state),
        fold,
        next_offset,
        key=key,
        wall_clock=1.5,
        version="0.1",
    )


def open_(
    snapshot: Sealed, *, name: str | None = None, content: bytes | None = None, **changes: Any
) -> State:
    arguments: dict[str, Any] = {"fold": FOLD, "key": KEY, "trusted": ()} | changes
    return opened(
        snapshot.name if name is None else name, snapshot.content if content is None else content, **arguments
    )[1]


def resealed(snapshot: Sealed, *, payload: bytes | None = None, key: bytes = KEY, **header: Any) -> Sealed:
    """The snapshot with another payload or header, sealed as its writer would."""
    start = len(MAGIC) + 4
    end = start + int.from_bytes(snapshot.content[len(MAGIC) : start], "big")
    said = orjson.loads(snapshot.content[start:end])
    end_of_payload = end + snapshot.header.payload_bytes
    held = snapshot.content[end:end_of_payload] if payload is None else payload
    said |= {"payload_bytes": len(held), "payload_sha256": hashlib.sha256(held).hexdigest()} | header
    text = orjson.dumps(said)
    whole = MAGIC + struct.pack(">I", len(text)) + text + held + snapshot.content[end_of_payload:-SEAL_BYTES]
    digest = hmac.digest(key, whole, "sha256")
    name = f"{said['partition']}/{said['next_offset']:020d}-{digest[:8].hex()}.snapshot"
    return Sealed(name, whole + digest, snapshot.header)


@pytest.fixture(scope="module")
def snapshot() -> Sealed:
    return seal(state_after(30))


# What is written can be gone on from ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("use", "task"), [(name, task) for name, spec in LEARNERS.items() for task in spec.tasks]
)
def test_a_learner_goes_on_from_its_snapshot_as_if_nothing_had_been(use: str, task: Task) -> None:
    watches = ["error", "feature:number_1"]
    config = settings_for(
        task,
        learner={"use": use},
        metrics={"use": metric_names(task), "window": 20},
        topics={"events": "events", "outcomes": "outcomes"},
        drift=[
            {"watch": watch, "detector": detector}
            for watch in watches
            for detector in DETECTORS
            if not drift_problems(watch, detector, {}, task)
        ],
    )
    records = rows_of(task, 160)
    straight, interrupted = new_pipeline(config), new_pipeline(config)
    for item in records[:100]:
        straight.process(item)
        interrupted.process(item)

    before = canonical(interrupted.state)
    interrupted.resume(open_(seal(interrupted.state)))

    assert canonical(interrupted.state) == before
    for item in records[100:]:
        assert interrupted.process(item) == straight.process(item)
    assert interrupted.state.prequential.values() == straight.state.prequential.values()
    assert interrupted.state.drift.status() == straight.state.drift.status()


@pytest.mark.parametrize("detector", DETECTORS)
def test_a_detector_alarms_after_a_snapshot_where_it_would_have_without(detector: str) -> None:
    config = settings_for("binary", drift=[{"watch": "error", "detector": detector}])
    straight = new_pipeline(config)
    values = [(i % 10 == 0) if i < 150 else (i % 3 > 0) for i in range(400)]
    for i, value in enumerate(values[:140]):
        straight.state.drift.labelled(True, not value, at=i)
    copy = open_(seal(straight.state))

    def alarms(monitor: DriftMonitor) -> list[Any]:
        return [monitor.labelled(True, not value, at=i) for i, value in enumerate(values[140:])]

    found = alarms(copy.drift)
    assert found == alarms(straight.state.drift)
    assert any(found), "the detector never spoke: the test proves nothing"


def test_a_copy_of_a_state_is_gone_when_nobody_holds_it() -> None:
    """Without the collector: a worker's looks seldom, and a forest takes a hundred megabytes."""
    payload = bytes(pickled(state_after(40)).state)
    gc.collect()
    gc.disable()
    try:
        estimator = weakref.ref(unpickled(payload, (), "copy").learner.estimator)
        assert estimator() is None
    finally:
        gc.enable()


def test_a_snapshot_holds_what_is_not_the_learners_too() -> None:
    state = state_after(40)

    copy = open_(seal(state))

    assert len(copy.labels.pending) == len(state.labels.pending)
    assert copy.dead_letters_by_stage == state.dead_letters_by_stage
    assert copy.dead_letters == state.dead_letters > 0
    assert (copy.labels.questions, copy.labels.joined) == (state.labels.questions, state.labels.joined)
    assert copy.labels.delays == state.labels.delays
    assert copy.labels.delays.maxlen == state.labels.delays.maxlen
    assert len(copy.labels.delays) == state.labels.joined > 0
    assert list(copy.recent_features) == list(state.recent_features)
    assert copy.clock == state.clock


@settings(deadline=None, database=None, max_examples=200)
@given(
    st.lists(
        st.dictionaries(
            st.text(st.characters(exclude_categories=["Cs"]), min_size=1),
            st.floats(allow_nan=False, allow_infinity=False)
            | st.booleans()
            | st.integers(-(2**63), 2**63 - 1)
            | st.text(st.characters(exclude_categories=["Cs"])),
        ),
        max_size=4,
    )
)
def test_any_rows_it_is_tried_on_come_back_as_they_were(rows: list[dict[str, Any]]) -> None:
    state = state_after(10)
    state.recent_features.clear()
    state.recent_features.extend(rows)

    snapshot = seal(state)

    header, _ = opened(snapshot.name, snapshot.content, fold=FOLD, key=KEY, trusted=())
    assert [x for x, _ in header.probe] == rows
    assert [[type(v) for v in x.values()] for x, _ in header.probe] == [
        [type(v) for v in x.values()] for x in rows
    ]


# What is refused ------------------------------------------------------------------------------------------------


def refusal(*arguments: Any, **keywords: Any) -> str:
    with pytest.raises(SnapshotError) as raised:
        open_(*arguments, **keywords)
    return str(raised.value)


def test_a_bit_that_flipped_anywhere_is_refused(snapshot: Sealed) -> None:
    content = snapshot.content
    header = len(MAGIC) + 4
    length = int.from_bytes(content[len(MAGIC) : header], "big")
    places = {*range(header), *range(header, len(content) - SEAL_BYTES, 7), header + length}
    places |= set(range(len(content) - SEAL_BYTES, len(content)))
    for place in sorted(places):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8

        assert "is damaged" in refusal(snapshot, content=bytes(damaged)), place


def test_a_file_cut_anywhere_is_refused(snapshot: Sealed) -> None:
    content = snapshot.content
    for length in {*range(0, len(content), 13), *range(200), *range(len(content) - 100, len(content))}:
        assert "is damaged" in refusal(snapshot, content=content[:length]), length


def test_something_after_the_end_is_refused(snapshot: Sealed) -> None:
    assert "is damaged" in refusal(snapshot, content=snapshot.content + b"\0")
    assert "is damaged" in refusal(snapshot, content=snapshot.content * 2)


def test_an_empty_file_is_refused_with_its_size(snapshot: Sealed) -> None:
    assert refusal(snapshot, content=b"") == f"{snapshot.name}: is damaged: 0 bytes that are no snapshot."


def test_another_key_is_refused_without_showing_either(snapshot: Sealed) -> None:
    text = refusal(snapshot, key=b"another-key-of-32-bytes-or-more!")

    assert "it is damaged, forged, or sealed with another key" in text
    assert "another-key" not in text
    assert KEY.decode() not in text
    assert snapshot.content[-SEAL_BYTES:].hex() not in text


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pipeline": "q"}, "is of pipeline 'p', expected 'q'."),
        ({"topic": "clicks"}, "is of topic 'events', expected 'clicks'."),
        ({"topic_id": "t-2"}, "is of topic id 't-1', expected 't-2'."),
        ({"partition": 4}, "is of partition 3, expected 4."),
        ({"origin": 0}, "is of origin 10, expected 0."),
        ({"base": "5f"}, "is of base '', expected '5f'."),
        ({"shape": SHAPE | {"learner": "other"}}, "was written with other settings or versions: learner."),
        ({"shape": SHAPE | {"river": "0.27.0"}}, "river (0.26.1 then, 0.27.0 now)."),
        ({"shape": SHAPE | {"python": "3.12"}}, "python (3.11 then, 3.12 now)."),
        ({"shape": SHAPE | {"drift": "new"}}, "was written with other settings or versions: drift."),
    ],
)
def test_a_snapshot_of_something_else_is_refused_with_what(
    snapshot: Sealed, changes: dict[str, Any], said: str
) -> None:
    fold = Fold(**{name: getattr(FOLD, name) for name in FOLD.__dataclass_fields__} | changes)

    assert refusal(snapshot, fold=fold).startswith(f"{snapshot.name}: ")
    assert refusal(snapshot, fold=fold).endswith(said)


def test_the_shape_of_real_settings_names_the_versions() -> None:
    assert {"python", "river"} <= state_shape(settings_for()).keys()


def test_a_file_under_another_name_is_refused(snapshot: Sealed) -> None:
    _, _, file = snapshot.name.partition("/")
    for name in (
        f"4/{file}",
        snapshot.name.replace("42-", "43-"),
        snapshot.name.replace("42-", "42-0123456789abcdef")[: len("3/") + 20 + 1 + 16] + ".snapshot",
    ):
        assert "its name says otherwise" in refusal(snapshot, name=name)


@pytest.mark.parametrize("name", ["", "3", "3/x.snapshot", "../3/evil", "3/0042-0123456789abcdef.snapshot"])
def test_what_is_no_name_is_refused(snapshot: Sealed, name: str) -> None:
    assert refusal(snapshot, name=name) == f"{name!r} is no name of a snapshot."


def test_two_snapshots_with_their_contents_swapped_are_both_refused(snapshot: Sealed) -> None:
    other = seal(state_after(31), next_offset=43)

    assert "is a snapshot of partition 3 at 43; its name says otherwise" in refusal(
        snapshot, content=other.content
    )
    assert "is a snapshot of partition 3 at 42" in refusal(other, content=snapshot.content)


def test_a_payload_that_is_not_the_headers_is_refused(snapshot: Sealed) -> None:
    changed = resealed(snapshot, payload_bytes=1)
    assert "its payload is not the one that its header describes" in refusal(changed)
    changed = resealed(snapshot, payload_sha256="0" * 64)
    assert "its payload is not the one that its header describes" in refusal(changed)


def test_a_later_format_is_refused_with_both_versions(snapshot: Sealed) -> None:
    assert refusal(resealed(snapshot, format=4)).endswith("has format 4; this version reads 3.")
    assert "its header has another format than this version reads (3)" in refusal(
        resealed(snapshot, format=4, codec="zstd")
    )


def test_an_earlier_format_is_refused_before_its_state_is_looked_at(snapshot: Sealed) -> None:
    assert refusal(resealed(snapshot, format=1, payload=b"no pickle")).endswith(
        "has format 1; this version reads 3."
    )


def test_a_learner_that_predicts_other_numbers_than_it_did_is_refused(snapshot: Sealed) -> None:
    other = state_after(29)

    text = refusal(resealed(snapshot, payload=bytes(pickled(other).state)))

    assert "it predicts other numbers on the rows in its header than when it was written" in text


def test_a_state_that_can_not_be_pickled_says_where_to_look() -> None:
    state = state_after(5)
    state.learner.estimator.hook = lambda: None  # type: ignore[attr-defined]  # what no pickle takes

    with pytest.raises(SnapshotError, match=r"can't be pickled .*learners.check_learner says what to change"):
        pickled(state)


@settings(deadline=None, database=None, max_examples=300)
@given(st.data())
def test_nothing_but_a_refusal_comes_of_any_bytes(data: st.DataObject) -> None:
    snapshot = seal(state_after(12))
    content = bytearray(snapshot.content)
    match data.draw(st.sampled_from(["any", "change", "insert", "remove"])):
        case "any":
            content = bytearray(data.draw(st.binary(max_size=300)))
            content = bytearray(MAGIC) + content if data.draw(st.booleans()) else content
        case "change":
            for _ in range(data.draw(st.integers(1, 5))):
                content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
        case "insert":
            at = data.draw(st.integers(0, len(content)))
            content[at:at] = data.draw(st.binary(min_size=1, max_size=50))
        case _:
            at = data.draw(st.integers(0, len(content) - 1))
            del content[at : at + data.draw(st.integers(1, 50))]
    if bytes(content) != snapshot.content:
        assert refusal(snapshot, content=bytes(content))


# What a forged payload can't do ---------------------------------------------------------------------------------


def name_of(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"  # STACK_GLOBAL


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def call(function: bytes, *arguments: bytes) -> bytes:
    return function + b"(" + b"".join(arguments) + b"tR"  # REDUCE


def payload_of(*parts: bytes) -> bytes:
    return b"\x80\x05" + b"".join(parts) + b"."


class Writes:
    """What a pickle of any attacker's choice looks like."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.write_text, (self.path, "gotcha")


class Runs:
    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


@pytest.fixture
def proof(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / PROOF
    yield path
    assert not path.exists(), "the payload was executed"


def test_a_payload_that_writes_a_file_would_do_so_if_it_were_simply_unpickled(tmp_path: Path) -> None:
    path = tmp_path / PROOF

    pickle.loads(pickle.dumps(Writes(path)))

    assert path.exists()


def test_nothing_of_a_forged_payload_is_executed_before_the_seal_holds(snapshot: Sealed, proof: Path) -> None:
    """Not even with everything trusted."""
    forged = resealed(snapshot, payload=pickle.dumps(Writes(proof)), key=b"?" * 32)

    text = refusal(forged, trusted=("pathlib", "os", "builtins"))

    assert "forged, or sealed with another key" in text


ATTACKS: dict[str, Callable[[str], object]] = {
    "os.system": lambda path: Runs(os.system, f"touch {path}"),
    "subprocess": lambda path: Runs(subprocess.run, ["touch", path]),
    "subprocess.Popen": lambda path: Runs(subprocess.Popen, ["touch", path]),
    "eval": lambda path: Runs(eval, f"open({path!r}, 'w')"),
    "exec": lambda path: Runs(exec, f"open({path!r}, 'w')"),
    "open": lambda path: Runs(open, path, "w"),
    "pathlib": lambda path: Runs(Path.touch, Path(path)),
    "import": lambda _: Runs(importlib.import_module, "antigravity"),
    "__import__": lambda _: Runs(__import__, "antigravity"),
    "partial": lambda path: Runs(functools.partial(os.system, f"touch {path}")),
    "pickle.loads": lambda path: Runs(pickle.loads, pickle.dumps(Writes(Path(path)))),
}


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("protocol", range(6))
def test_a_payload_sealed_with_the_right_key_still_reaches_nothing(
    snapshot: Sealed, proof: Path, attack: str, protocol: int
) -> None:
    payload = pickle.dumps(ATTACKS[attack](str(proof)), protocol)

    assert "which is not among what a state may hold" in refusal(resealed(snapshot, payload=payload))


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("os", "system"),
        ("posix", "system"),
        ("nt", "system"),
        ("builtins", "eval"),
        ("builtins", "type"),
        ("builtins", "vars"),
        ("builtins", "setattr"),
        ("builtins", "breakpoint"),
        ("builtins", "getattr.__self__"),
        ("builtins", "object.__subclasses__"),
        ("builtins", "str.format"),
        ("__builtin__", "eval"),
        ("sys", "modules"),
        ("copyreg", "add_extension"),
        ("copyreg", "_reconstructor"),
        ("operator", "attrgetter"),
        ("operator", "methodcaller"),
        ("functools", "reduce"),
        ("types", "CodeType"),
        ("types", "FunctionType"),
        ("importlib", "import_module"),
        ("pathlib", "PosixPath"),
        ("io", "open"),
        ("_io", "FileIO"),
        ("tempfile", "mktemp"),
        ("shutil", "rmtree"),
        ("webbrowser", "open"),
        ("commands", "getoutput"),  # names of Python 2, which pickle would translate
        ("ctypes", "CDLL"),
        ("numpy", "load"),
        ("numpy", "save"),
        ("numpy", "fromfile"),
        ("numpy", "memmap"),
        ("numpy.lib.npyio", "load"),
        ("numpy.ctypeslib", "load_library"),
        ("numpy._core.multiarray", "fromfile"),
        ("numpy.testing._private.utils", "runstring"),
        ("learners.registry", "load_learner"),
        ("learners.registry", "build_learner"),
        ("learners.checks", "find_problems"),
        ("learners.learner", "require_fit"),
        ("learners.models", "inspect.importlib.import_module"),
        ("stream.snapshots.file", "unpickled"),
        ("stream.snapshots.store", "LocalDirectory"),
        ("stream.pipeline", "SnapshotError"),
        ("stream.pipeline", "State.__init__"),
        ("stream.pipeline", "State.__init__.__globals__"),
        ("stream.build", "new_pipeline"),
        ("river", "datasets.Phishing"),
        ("river.api", "datasets.Phishing"),
        ("river.bandit.datasets", "NewsArticles"),
        ("river.bandit.datasets.news", "NewsArticles"),
        ("river.bandit.envs", "CandyCaneContest"),
        ("river.datasets", "Phishing"),
        ("river.datasets.base", "RemoteDataset"),
        ("river.stream", "Cache"),
        ("river.stream.cache", "Cache"),
        ("river.checks.common", "check_pickling"),
        ("river.checks.common", "pickle.loads"),
        ("river.evaluate", "progressive_val_score"),
        ("river.utils", "os.system"),
        ("river.base.base", "sys.modules"),
        ("river.base.base", "sys"),
        ("river.base.base", "Base.clone"),
        ("river.base.base", "Base.clone.__globals__"),
        ("river.base.base", "Base.clone.__globals__.__getitem__"),
        ("river.base.base", "Base.__subclasses__"),
        ("river.base.base", "Base.__class__"),
        ("river.utils.rolling", "BaseRolling.__getattr__"),
        ("river.utils.rolling", "BaseRolling.__getitem__"),
        ("river.utils.pandas", "import_pandas"),
        ("river.utils.param_grid", "expand_param_grid"),
        ("river..", "x"),
        ("", "x"),
    ],
)
def test_a_name_that_leads_out_of_a_state_is_refused(snapshot: Sealed, module: str, name: str) -> None:
    for payload in (
        payload_of(name_of(module, name)),
        b"\x80\x02c%s\n%s\n." % (module.encode(), name.encode()),  # GLOBAL
        b"(i%s\n%s\n." % (module.encode(), name.encode()),  # INST
        b"\x80\x02(c%s\n%s\no." % (module.encode(), name.encode()),  # OBJ
        payload_of(name_of(module, name), b")\x81"),  # NEWOBJ
        payload_of(name_of(module, name), b")}\x92"),  # NEWOBJ_EX
    ):
        said = refusal(resealed(snapshot, payload=payload))

        assert "which is not among what a state may hold" in said or "can't be unpickled" in said


def test_a_class_of_another_module_is_refused_with_the_setting_to_add(snapshot: Sealed) -> None:
    payload = payload_of(name_of("sklearn.linear_model", "Ridge"))

    assert refusal(resealed(snapshot, payload=payload)) == (
        f"{resealed(snapshot, payload=payload).name}: asks for sklearn.linear_model.Ridge, which is not among what a "
        'state may hold. If it belongs to your learner, add "sklearn" to [snapshots] trusted_modules.'
    )


def test_what_an_attribute_of_rivers_can_reach_is_out_of_reach(snapshot: Sealed, proof: Path) -> None:
    """A way that was open: River's rolling windows hand on every attribute and item of what they hold."""

    def rolling(held: bytes) -> bytes:
        return name_of("river.utils.rolling", "Rolling") + b")\x81}" + text("obj") + held + b"sb"

    def attribute(of: bytes, name: str) -> bytes:
        return call(name_of("river.utils.rolling", "BaseRolling.__getattr__"), rolling(of), text(name))

    def item(of: bytes, key: str) -> bytes:
        return call(name_of("river.utils.rolling", "BaseRolling.__getitem__"), rolling(of), text(key))

    names = attribute(name_of("river.utils.math", "sigmoid"), "__globals__")
    modules = attribute(item(item(names, "__builtins__"), "__import__"), "__self__")
    system = attribute(item(attribute(modules, "modules"), "os"), "system")

    assert "BaseRolling.__getattr__" in refusal(
        resealed(snapshot, payload=payload_of(call(system, text(f"touch {proof}"))))
    )


def test_a_data_set_that_fetches_its_file_is_out_of_reach(snapshot: Sealed, proof: Path) -> None:
    """A way that was open: River has one data set outside of its data sets, and `download` writes a file."""
    fields = text("url") + text("data:,gotcha") + text("filename") + text(str(proof))
    fields += text("unpack") + b"\x89" + text("size") + b"K\x00"
    data_set = name_of("river.bandit.datasets.news", "NewsArticles") + b")R}(" + fields + b"ub"
    download = call(name_of("builtins", "getattr"), data_set, text("download"))

    said = refusal(resealed(snapshot, payload=payload_of(call(download, b"\x88", b"\x89"))))

    assert "river.bandit.datasets.news.NewsArticles, which is not among what a state may hold" in said


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (text("{0.__class__}"), "format"),
        (name_of("builtins", "object"), "__subclasses__"),
        (name_of("builtins", "str"), "format"),
        (name_of("river.base.base", "Base"), "clone"),
        (name_of("river.utils.math", "sigmoid"), "__globals__"),
        (call(name_of("river.stats", "Mean")), "__class__"),
        (call(name_of("river.stats", "Mean")), "__init__"),
        (call(name_of("river.stats", "Mean")), "n"),
        (name_of("builtins", "getattr"), "__self__"),
        (name_of("builtins", "getattr"), "find_class"),
        (call(name_of("random", "Random")), "__reduce__"),
        (call(name_of("random", "Random")), "seed"),
    ],
)
def test_getattr_gives_methods_of_estimators_only(snapshot: Sealed, owner: bytes, name: str) -> None:
    payload = payload_of(call(name_of("builtins", "getattr"), owner, text(name)))

    assert "which is no method of an estimator" in refusal(resealed(snapshot, payload=payload))


def test_getattr_hands_on_no_attribute_of_what_an_object_of_rivers_holds(snapshot: Sealed) -> None:
    held = name_of("river.utils.rolling", "Rolling") + b")\x81}" + text("obj") + text("a {0}") + b"sb"
    payload = payload_of(call(name_of("builtins", "getattr"), held, text("format")))

    assert "which is no method of an estimator" in refusal(resealed(snapshot, payload=payload))


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(b"\x80\x05\x82\x01.", id="extension code"),
        pytest.param(b"\x80\x05\x84\x01\x00\x00\x00.", id="long extension code"),
        pytest.param(b"Pos.system\n.", id="persistent id"),
        pytest.param(payload_of(text("os.system"), b"Q"), id="binary persistent id"),
        pytest.param(b"\x80\x05\x97.", id="out-of-band buffer"),
        pytest.param(b"\x80\x07N.", id="a later protocol"),
        pytest.param(b"\x80\x05N.", id="none"),
        pytest.param(b".", id="nothing on the stack"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\x80\x05X\xff\xff\xff\x7fa.", id="a text longer than the file"),
        pytest.param(b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.", id="more bytes than there are"),
        pytest.param(b"\x80\x05h\x09.", id="nothing kept under this number"),
        pytest.param(payload_of(name_of("stream.pipeline", "State"), b")\x81"), id="a state without parts"),
        pytest.param(
            payload_of(name_of("stream.pipeline", "State"), text("a") * 4, b"(" + text("a") * 4 + b"tR"),
            id="a state of other things",
        ),
        pytest.param(
            payload_of(name_of("learners.learner", "Learner"), b")\x81", text("a"), b"b"),
            id="no learner's state",
        ),
    ],
)
def test_what_is_no_state_is_refused(snapshot: Sealed, payload: bytes) -> None:
    assert refusal(resealed(snapshot, payload=payload, probe=[]))


def test_a_state_whose_parts_are_something_else_is_refused(snapshot: Sealed) -> None:
    state = state_after(5)
    state.labels = {}  # type: ignore[assignment]  # what a forger may put there

    text = refusal(resealed(snapshot, payload=pickle.dumps(state)))

    assert text.endswith("its labels is a dict, expected a LabelBook.")


# What belongs to the user ---------------------------------------------------------------------------------------


OWN = """\
from river import linear_model


class Scaler:
    def __init__(self):
        self.seen = 0


def helper(x):
    return x


class Mine(linear_model.LinearRegression):
    def __init__(self):
        super().__init__()
        self.scaler = Scaler()
        self.helper = helper

    def learn_one(self, x, y):
        self.scaler.seen += 1
        return super().learn_one(x, y)
"""


@pytest.fixture
def own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[State]:
    (tmp_path / "mylearner.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("mylearner")
    state = state_after(5)
    state.learner = Learner(module.Mine(), "regression")
    state.learner.learn({"a": 1.0}, 2.0)
    yield state
    del sys.modules["mylearner"]


def test_a_class_of_the_users_own_module_is_allowed(own_state: State) -> None:
    copy: Any = open_(seal(own_state), trusted=("mylearner",))

    assert copy.learner.estimator.scaler.seen == 1
    assert copy.learner.predict({"a": 1.0}) == own_state.learner.predict({"a": 1.0})


def test_a_module_is_trusted_by_its_whole_name(own_state: State) -> None:
    for trusted in ((), ("mylearn",), ("mylearner.sub",)):
        text = refusal(seal(own_state), trusted=trusted)
        assert text.endswith(
            "asks for mylearner.Mine, which is not among what a state may hold. If it belongs to your learner, "
            'add "mylearner" to [snapshots] trusted_modules.'
        )


def test_what_a_trusted_module_has_merely_imported_is_not_trusted(
    snapshot: Sealed, own_state: State, proof: Path
) -> None:
    module = sys.modules["mylearner"]
    module.system = os.system  # type: ignore[attr-defined]  # as `from os import system` does
    module.os = os  # type: ignore[attr-defined]

    for name in ("system", "os.system", "os"):
        payload = payload_of(call(name_of("mylearner", name), text(f"touch {proof}")))
        assert f"asks for mylearner.{name}" in refusal(
            resealed(snapshot, payload=payload), trusted=("mylearner",)
        )


@pytest.mark.parametrize(
    "estimator",
    [
        dummy.StatisticRegressor(__import__("river.stats").stats.Quantile(0.5)),
        preprocessing.TargetStandardScaler(
            dummy.StatisticRegressor(__import__("river.stats").stats.EWMean())
        ),
    ],
    ids=["quantile", "scaled target"],
)
def test_rivers_own_classes_need_no_trust(estimator: Any) -> None:
    state = state_after(5)
    state.learner = Learner(estimator, "regression")
    for i in range(20):
        state.learner.learn({"a": 1.0}, float(i))

    copy = open_(seal(state))

    assert canonical(copy) == canonical(state)


def test_the_payload_alone_goes_through_the_same_gate() -> None:
    """As the writer tries its own payload before it is stored."""
    with pytest.raises(SnapshotError, match=r"partition 3: asks for posix\.system"):
        unpickled(pickle.dumps(os.system), (), "partition 3")
