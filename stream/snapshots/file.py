"""What a snapshot is: a header and a pickled state, sealed with a key, and trusted in steps.

    magic | length of the header | header (JSON) | payload (pickle of the state) | queues | HMAC-SHA256 over all before

The queues of a state may have a million items, so they are no part of the pickle, where an empty one stands for each.
What they hold lies in *segments*, files that are written once and shared by the snapshots that come after. Their names
and digests are in the header; which of their items are still there, and the newest items, in the part called queues.

A snapshot is opened in this order, and refused at the first step that fails: its seal, with the pipeline's key; its
header against its name and against what is wanted (pipeline, topic, partition, origin, settings, versions); its payload
through an unpickler that knows only what a state is made of; then predictions on stored rows, which must come out as
they did when it was written; and last its segments, each by its digest. Nothing of a snapshot is executed before its
seal holds.
"""

from __future__ import annotations

import copyreg
import gc
import hashlib
import hmac
import io
import marshal
import pickle
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from random import Random
from threading import Lock
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, Final, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from learners.learner import Learner
from monitors import DriftMonitor, Prequential
from stream.checkpoint import changed_parts
from stream.codec import encode_json, scores_of
from stream.errors import SnapshotError
from stream.keyed import FrozenQueue, KeyedQueue, SegmentFile
from stream.labels import LabelBook, RecentIds
from stream.pipeline import State
from stream.snapshots.store import NAME

#: Version of the file and of the state in it; another one is refused.
FORMAT: Final = 3
MAGIC: Final = b"headrace snapshot\n"
SEAL_BYTES: Final = 32
#: The format of the pickles: framed and fast, since Python 3.8.
PICKLE_PROTOCOL: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """Which fold a state belongs to: equal folds at equal offsets have equal states."""

    #: The pipeline's name.
    pipeline: str
    #: The events topic and its identity, which changes when it is recreated.
    topic: str
    topic_id: str
    partition: int
    #: O: the offset at which the fold began.
    origin: int
    #: What was learned before the origin: empty, or the digest of a file of rows (`headrace rebuild --rows`).
    base: str
    #: What shapes the state beside the log: digests of settings by name, and the versions of River and Python.
    shape: Mapping[str, str]
    #: Which fold this is, of several with the same beginning: empty for the first, drawn by each rebuild and reset.
    #: What the shape does not tell, such as a module that the user's learner imports, may differ between them.
    fold_id: str = ""


class Header(BaseModel):
    """What a snapshot says about itself."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = FORMAT
    #: The fields of `Fold`.
    pipeline: str
    topic: str
    topic_id: str
    partition: int
    origin: int
    base: str
    shape: dict[str, str]
    fold_id: str = ""
    #: S: the next offset that the state has not learned.
    next_offset: int
    #: Readable name of the learner, and how many labels it has learned.
    learner: str
    learned: int
    #: Version of Headrace that wrote it, and when, epoch seconds.
    headrace: str
    created_at: float
    #: Size and SHA-256 of the payload.
    payload_bytes: int
    payload_sha256: str
    #: The segments that its queues lie in: name, size, SHA-256.
    segments: list[tuple[str, int, str]] = []
    #: Rows, and what the state predicts for them.
    probe: list[tuple[dict[str, Any], str]]


class Payload(NamedTuple):
    """A state as it was at one moment."""

    #: Its pickle, in which its queues are empty.
    state: bytes | bytearray
    #: Those queues, in the order in which the pickle has them.
    queues: Sequence[FrozenQueue] = ()


class Sealed(NamedTuple):
    """A snapshot ready to be stored."""

    name: str
    content: bytes
    header: Header


class Tried(NamedTuple):
    """What a copy of a state says of itself."""

    #: Readable name of the learner, and how many labels it has learned.
    learner: str
    learned: int
    #: Rows, and what it predicts for them.
    probe: list[tuple[dict[str, Any], str]]

    @classmethod
    def of(cls, state: State) -> Tried:
        """Ask a state; not one in use: some of River's models change when they predict."""
        learner = state.learner
        return cls(learner.name, learner.learned, predictions_on(learner, state.recent_features))


#: How many threads keep the collector off, and what guards the count.
_without = 0
_COLLECTOR: Final = Lock()


@contextmanager
def without_collector() -> Iterator[None]:
    """Keep the cyclic garbage collector off a million new objects, none of which is garbage: a third of the time."""
    global _without  # noqa: PLW0603 - the collector is one for the whole process, too
    with _COLLECTOR:
        _without += 1
        gc.disable()
    try:
        yield
    finally:
        with _COLLECTOR:
            _without -= 1
            if not _without:
                gc.enable()


def pickled(state: State) -> Payload:
    """The state as it is now; it may go on while the rest of its snapshot is made.

    Raises:
        SnapshotError: The learner can't be pickled.
    """
    queues, content = pickled_apart(state)
    return Payload(content, [queue.freeze() for queue in queues])


def pickled_apart(state: State) -> tuple[Sequence[KeyedQueue], bytes]:
    """A pickle of the state in which its queues are empty, and those queues, in its order.

    Raises:
        SnapshotError: The learner can't be pickled.
    """
    queues: list[KeyedQueue] = []

    def empty(queue: KeyedQueue) -> tuple[type[KeyedQueue], tuple[()]]:
        queues.append(queue)
        return KeyedQueue, ()

    buffer = io.BytesIO()
    pickler = pickle.Pickler(buffer, PICKLE_PROTOCOL)
    pickler.dispatch_table = copyreg.dispatch_table | {KeyedQueue: empty}
    try:
        with without_collector():
            pickler.dump(state)
        return queues, buffer.getvalue()
    except Exception as error:
        raise SnapshotError(
            f"the state can't be pickled ({type(error).__name__}: {error}); "
            "learners.check_learner says what to change in the learner."
        ) from error


def queues_of(state: State) -> list[KeyedQueue]:
    """The queues of a state: those of its label book."""
    book = state.labels
    return [book.pending, book.closed, book.early]


def predictions_on(learner: Learner, rows: Iterable[Mapping[str, Any]]) -> list[tuple[dict[str, Any], str]]:
    """Each row with what the learner predicts for it, as text that is equal only for equal numbers."""
    found = []
    for x in rows:
        try:
            y_pred, y_proba = learner.predict(dict(x))
            text = encode_json(
                {"prediction": y_pred, "scores": scores_of(y_proba) if y_proba else None}
            ).decode()
        except Exception as error:
            text = type(error).__name__  # what it says may hold an address
        found.append((dict(x), text))
    return found


def sealed(
    payload: Payload,
    tried: Tried,
    fold: Fold,
    next_offset: int,
    *,
    key: bytes,
    wall_clock: float,
    version: str,
) -> Sealed:
    """A snapshot of a payload.

    Args:
        payload: As `pickled` made it; its segments have been written.
        tried: What the state in it says of itself.
        fold: Which fold it belongs to.
        next_offset: S.
        key: Seals it.
        wall_clock: Now, epoch seconds; for people only.
        version: Of Headrace.
    """
    files = [file for queue in payload.queues for file in queue.files()]
    queues = marshal.dumps([queue.manifest() for queue in payload.queues], 2)
    header = Header(
        pipeline=fold.pipeline,
        topic=fold.topic,
        topic_id=fold.topic_id,
        partition=fold.partition,
        origin=fold.origin,
        base=fold.base,
        shape=dict(fold.shape),
        fold_id=fold.fold_id,
        next_offset=next_offset,
        learner=tried.learner,
        learned=tried.learned,
        headrace=version,
        created_at=wall_clock,
        payload_bytes=len(payload.state),
        payload_sha256=hashlib.sha256(payload.state).hexdigest(),
        segments=list(map(tuple, files)),
        probe=tried.probe,
    )
    text = encode_json(header.model_dump())
    parts = [MAGIC, struct.pack(">I", len(text)), text, payload.state, queues]
    seal = hmac.new(key, digestmod="sha256")
    for part in parts:
        seal.update(part)
    digest = seal.digest()
    content = b"".join((*parts, digest))  # once: a payload may have many megabytes
    return Sealed(f"{fold.partition}/{next_offset:020d}-{digest[:8].hex()}.snapshot", content, header)


def header_of(name: str, content: bytes, key: bytes) -> tuple[Header, memoryview, memoryview]:
    """Header, payload and queues of a snapshot whose seal holds and which is what its name says.

    Raises:
        SnapshotError: It is not; says why.
    """
    match = NAME.fullmatch(name)
    if match is None:
        raise SnapshotError(f"{name!r} is no name of a snapshot.")
    if not content.startswith(MAGIC) or len(content) < len(MAGIC) + 4 + SEAL_BYTES:
        raise SnapshotError(f"{name}: is damaged: {len(content):,} bytes that are no snapshot.")
    body, seal = memoryview(content)[:-SEAL_BYTES], content[-SEAL_BYTES:]
    expected = hmac.digest(key, body, "sha256")
    if not hmac.compare_digest(expected, seal):
        raise SnapshotError(
            f"{name}: its seal is {seal[:4].hex()}…, expected {expected[:4].hex()}…: "
            "it is damaged, forged, or sealed with another key."
        )
    start = len(MAGIC) + 4
    end = start + int.from_bytes(body[len(MAGIC) : start], "big")
    try:
        header = Header.model_validate_json(bytes(body[start:end]))
    except ValidationError as error:
        raise SnapshotError(
            f"{name}: its header has another format than this version reads ({FORMAT}): "
            f"{error.error_count()} fields differ."
        ) from None
    if header.format != FORMAT:
        raise SnapshotError(f"{name}: has format {header.format}; this version reads {FORMAT}.")
    said = (str(header.partition), f"{header.next_offset:020d}", seal[:8].hex())
    if said != match.group("partition", "offset", "seal"):
        raise SnapshotError(
            f"{name}: is a snapshot of partition {header.partition} at {header.next_offset}; its name says otherwise."
        )
    payload, queues = body[end : end + header.payload_bytes], body[end + header.payload_bytes :]
    if len(payload) != header.payload_bytes or hashlib.sha256(payload).hexdigest() != header.payload_sha256:
        raise SnapshotError(f"{name}: its payload is not the one that its header describes.")
    return header, payload, queues


class Superseded(SnapshotError):
    """A snapshot of a fold that this partition had before: nothing is wrong with it, and it is of no use any more."""


def require_of(header: Header, fold: Fold, name: str) -> None:
    """Refuse a snapshot of anything but this fold.

    Raises:
        Superseded: It is of this partition, from before a reset, a rebuild or a change of settings.
        SnapshotError: It is another's; says whose.
    """
    for what in ("pipeline", "topic", "partition", "topic_id", "origin", "base", "fold_id"):
        found, expected = getattr(header, what), getattr(fold, what)
        if found != expected:
            kind = Superseded if what in {"topic_id", "origin", "base", "fold_id"} else SnapshotError
            raise kind(f"{name}: is of {what.replace('_', ' ')} {found!r}, expected {expected!r}.")
    if changed := changed_parts(header.shape, fold.shape):
        raise Superseded(f"{name}: was written with other settings or versions: {', '.join(changed)}.")


def no_segments(files: Sequence[SegmentFile]) -> Iterator[tuple[SegmentFile, bytes]]:
    """For a snapshot that must not have any."""
    if files:
        raise SnapshotError(f"its segment {files[0].name} is not at hand.")
    return iter(())


def opened(
    name: str,
    content: bytes,
    *,
    fold: Fold,
    key: bytes,
    trusted: Sequence[str],
    read: Callable[[Sequence[SegmentFile]], Iterator[tuple[SegmentFile, bytes]]] = no_segments,
) -> tuple[Header, State]:
    """The state in a snapshot that has passed every check.

    Args:
        name: Its name in the store.
        content: Its bytes.
        fold: What it must be a state of.
        key: The pipeline's.
        trusted: Modules beside ours and River's that the learner's own classes may come from.
        read: Reads segments, whose digests have been compared when it gives them, one by one.

    Raises:
        SnapshotError: It is not to be used; says why. See `require_of` for which one.
    """
    header, payload, manifests = header_of(name, content, key)
    require_of(header, fold, name)
    rows = [x for x, _ in header.probe]
    if predictions_on(unpickled(payload, trusted, name).learner, rows) != header.probe:
        raise SnapshotError(
            f"{name}: it predicts other numbers on the rows in its header than when it was written: "
            "another processor or another version of a library the learner uses."
        )
    # Not the one that was asked: in River's trees a prediction leaves empty entries, whose place in the order remains.
    state, queues = _unpickled(payload, trusted, name)
    try:
        with without_collector():
            _fill(queues, marshal.loads(manifests), [SegmentFile(*found) for found in header.segments], read)
    except SnapshotError as error:
        raise type(error)(f"{name}: {error}") from None
    except (ValueError, TypeError, EOFError, LookupError) as error:
        raise SnapshotError(f"{name}: its queues can't be filled: {error}.") from error
    return header, state


def _fill(
    queues: Sequence[KeyedQueue],
    manifests: Sequence[Any],
    files: Sequence[SegmentFile],
    read: Callable[[Sequence[SegmentFile]], Iterator[tuple[SegmentFile, bytes]]],
) -> None:
    """Bring the items of queues back."""
    if len(queues) != len(manifests):
        raise ValueError(f"it has {len(queues)}, and what {len(manifests)} hold")
    segments = read(files)
    for queue, manifest in zip(queues, manifests, strict=True):
        queue.thaw(manifest, segments)


# The unpickler ------------------------------------------------------------------------------------------------------

#: What a state is made of beside classes of ours and River's. Nothing here reaches a file, a process or an import.
PLAIN: Final[Mapping[str, frozenset[str]]] = {
    "builtins": frozenset(
        kind.__name__
        for kind in (
            bool,
            bytearray,
            bytes,
            complex,
            dict,
            float,
            frozenset,
            int,
            iter,
            list,
            object,
            range,
            set,
            slice,
            str,
            tuple,
        )
    ),
    "collections": frozenset({"Counter", "OrderedDict", "defaultdict", "deque"}),
    "copy": frozenset({"deepcopy"}),
    "datetime": frozenset({"date", "datetime", "time", "timedelta", "timezone"}),
    "decimal": frozenset({"Decimal"}),
    "fractions": frozenset({"Fraction"}),
    "functools": frozenset({"partial"}),
    "math": frozenset({"sqrt", "exp", "log"}),
    "numpy": frozenset({"dtype", "ndarray"}),
    "numpy._core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy._core.numeric": frozenset({"_frombuffer"}),
    "numpy.core.multiarray": frozenset({"_reconstruct", "scalar"}),
    "numpy.random.bit_generator": frozenset({"SeedSequence", "__pyx_unpickle_SeedSequence"}),
    "numpy.random._pickle": frozenset({"__bit_generator_ctor", "__generator_ctor", "__randomstate_ctor"}),
    "numpy.random._mt19937": frozenset({"MT19937"}),
    "numpy.random._pcg64": frozenset({"PCG64"}),
    "random": frozenset({"Random"}),
    "re": frozenset({"_compile"}),
    "statistics": frozenset({"NormalDist"}),
}
#: What the parts of a state are.
PARTS: Final[Mapping[str, type]] = {
    "learner": Learner,
    "prequential": Prequential,
    "drift": DriftMonitor,
    "labels": LabelBook,
    "recent": RecentIds,
    "classes": dict,
    "recent_features": deque,
    "dead_letters_by_stage": dict,
    "clock": Real,
} | dict.fromkeys(("events", "predictions", "duplicates", "ignored", "non_finite"), int)
#: Modules of ours whose classes a state holds.
OURS: Final = (
    "learners.learner",
    "learners.models",
    "learners.prepare",
    "monitors.drift",
    "monitors.prequential",
    "stream.labels",
    "stream.pipeline",
)
#: Parts of River that read files, fetch data or run what they are given.
NOT_OF_RIVER: Final = (
    "river.api",
    "river.bandit.datasets",
    "river.bandit.envs",
    "river.bandit.evaluate",
    "river.checks",
    "river.compat",
    "river.datasets",
    "river.evaluate",
    "river.stream",
)
#: Functions that River's estimators hold, by module and qualified name. No others: a payload may call what it holds
#: with anything, and by `BaseRolling.__getattr__` alone it would reach every module there is.
RIVERS_FUNCTIONS: Final[Mapping[str, frozenset[str]]] = {
    "river.feature_extraction.vectorize": frozenset(
        {
            "find_all_ngrams",
            "find_ngrams",
            "remove_stop_words",
            "strip_accents_unicode",
            "tokenize_using_regex_pattern",
        }
    ),
    "river.forest.online_extra_trees": frozenset(
        {
            "ExtraTrees._detection_mode_all",
            "ExtraTrees._detection_mode_drop",
            "ExtraTrees._detection_mode_off",
        }
    ),
    "river.metrics.mutual_info": frozenset({"_average_arithmetic", "_average_geometric"}),
    "river.naive_bayes.gaussian": frozenset({"GaussianNB._make_gaussian"}),
    "river.tree.splitter.ebst_splitter": frozenset(
        {"EBSTNode._update_estimator_multivariate", "EBSTNode._update_estimator_univariate"}
    ),
    "river.utils.math": frozenset({"minkowski_distance", "prod", "sigmoid", "sign", "softmax"}),
}
#: Methods of plain objects that estimators hold beside those of other estimators.
PLAIN_METHODS: Final[Mapping[type, frozenset[str]]] = {
    Random: frozenset({"choice", "gauss", "randint", "random", "randrange", "uniform"}),
}


def unpickled(payload: bytes | memoryview, trusted: Sequence[str], name: str) -> State:
    """The state in a payload, made of known classes only; its queues are empty.

    Raises:
        SnapshotError: It asks for anything else, or is no state.
    """
    return _unpickled(payload, trusted, name)[0]


def _unpickled(
    payload: bytes | memoryview, trusted: Sequence[str], name: str
) -> tuple[State, list[KeyedQueue]]:
    """The state in a payload, and its queues, which are empty."""
    unpickler = _Unpickler(io.BytesIO(payload), trusted)
    try:
        with without_collector():
            state = unpickler.load()
    except SnapshotError as error:
        raise SnapshotError(f"{name}: {error}") from None
    except Exception as error:
        raise SnapshotError(f"{name}: can't be unpickled ({type(error).__name__}: {error}).") from error
    finally:
        # It holds all that was unpickled, and methods of its own: a circle, which would keep a copy of the state alive
        # until the collector looks.
        unpickler.memo.clear()
    if not isinstance(state, State):
        raise SnapshotError(f"{name}: holds a {type(state).__name__}, expected a state.")
    for part, kind in PARTS.items():
        found = getattr(state, part, None)
        if not isinstance(found, kind):
            raise SnapshotError(
                f"{name}: its {part} is a {type(found).__name__}, expected a {kind.__name__}."
            )
    return state, unpickler.queues


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, trusted: Sequence[str]) -> None:
        super().__init__(file, fix_imports=False)  # else a name is another one after it was looked at
        self._trusted = trusted
        #: Those it has made, in order.
        self.queues: list[KeyedQueue] = []

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("builtins", "getattr"):
            return self._bound_method
        if (module, name) == ("stream.keyed", "KeyedQueue"):
            return self._queue
        if name in PLAIN.get(module, ()):
            return super().find_class(module, name)
        if self._knows(module):
            found = super().find_class(module, name)
            if self._may_hold(found, name):
                return found
        raise SnapshotError(
            f"asks for {module}.{name}, which is not among what a state may hold. If it belongs to your learner, "
            f'add "{module.partition(".")[0]}" to [snapshots] trusted_modules.'
        )

    def _queue(self) -> KeyedQueue:
        self.queues.append(KeyedQueue())
        return self.queues[-1]

    def _knows(self, module: str | None) -> bool:
        return module is not None and (
            module in OURS or (_is_in(module, "river") and not _is_left_out(module)) or self._trusts(module)
        )

    def _trusts(self, module: str) -> bool:
        return any(_is_in(module, part) for part in self._trusted)

    def _may_hold(self, found: object, name: str) -> bool:
        """Whether a state may hold what this name stands for in a known module."""
        # What a module has merely imported is not its own.
        if not isinstance(found, type | FunctionType | BuiltinFunctionType) or not self._knows(
            found.__module__
        ):
            return False
        if self._trusts(found.__module__):
            return True
        if isinstance(found, type):  # its methods may be those of a class that is left out
            return not any(_is_left_out(base.__module__) for base in found.__mro__)
        if isinstance(found, BuiltinFunctionType):  # compiled: arithmetic, and what rebuilds a compiled class
            return "." not in name and _is_in(found.__module__, "river")
        return found.__qualname__ in RIVERS_FUNCTIONS.get(found.__module__, ())

    def _bound_method(self, owner: object, name: str) -> object:
        """`getattr` as pickle uses it for a method of an estimator, and nothing else."""
        if owner is str and name == "lower":
            return str.lower  # River's text features hold it
        known = not name.startswith("__") and self._knows(type(owner).__module__)
        method = getattr(owner, name) if known or name in PLAIN_METHODS.get(type(owner), ()) else None
        if not isinstance(method, MethodType | BuiltinFunctionType) or method.__self__ is not owner:
            raise SnapshotError(
                f"asks for {name!r} of a {type(owner).__name__}, which is no method of an estimator."
            )
        return method


def _is_left_out(module: str) -> bool:
    """Whether a module is one of those of River's that no state is made of."""
    return any(_is_in(module, part) for part in NOT_OF_RIVER)


def _is_in(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")
