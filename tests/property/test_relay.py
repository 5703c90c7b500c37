"""The relay, however its commits end and whoever dies: each source record once, in the order of its partition."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from stream.relay.headers import KIND, PIPELINE, POSITION, relay_headers, relayed_for
from stream.relay.log import Place
from stream.relay.relay import Relay
from tests.unit.stream.relay.memory import Clock, Died, Fault, Logs, MemoryRelay, relay_settings

PLACES = [Place("a", 0), Place("a", 1), Place("labels", 0)]


def faults(*kinds: Fault) -> st.SearchStrategy[list[Fault | None]]:
    return st.lists(st.one_of(st.none(), st.none(), st.sampled_from(kinds)), max_size=8)


SCRIPTS = st.fixed_dictionaries(
    {
        "claim": faults("aborted", "dies after"),
        "poll": faults("rebalance", "once more"),
        "send": faults("fenced"),
        "send_offsets": faults("no answer", "aborted", "dies before", "dies after"),
        "commit": faults("no answer", "done, no answer", "aborted", "fenced", "dies before", "dies after"),
        "abort": faults("no answer", "fenced"),
    }
)


@given(
    st.lists(st.lists(st.integers(1, 3), max_size=25), min_size=3, max_size=3),
    SCRIPTS,
    st.integers(1, 9),
)
@settings(max_examples=300, deadline=None)
def test_each_record_comes_once_and_in_order(
    steps: list[list[int]], script: dict[str, list[Fault | None]], batch: int
) -> None:
    logs = Logs({"a": 2, "labels": 1})
    for place, gaps in zip(PLACES, steps, strict=True):
        offsets = [sum(gaps[: number + 1]) for number in range(len(gaps))]
        logs.add(place, *offsets)
    logs.faults = script
    done = False

    for process in range(40):  # each script has fewer deaths
        log, clock = MemoryRelay(logs, f"p.relay-{process}-0"), Clock()
        log.batch = batch
        # Fenced more often than it bears is another test's: each minute begins anew.
        relay = Relay(
            log,
            relay_settings(),
            stop_at_end=True,
            should_stop=lambda: False,
            clock=clock,
            sleep=lambda seconds, clock=clock: clock.sleep(seconds + 20),  # type: ignore[misc]
        )
        with suppress(Died):
            relay.run()
            done = True
            break

    assert done
    for place in PLACES:
        found = [r.value for r, _ in logs.events[0] if (r.topic, r.partition) == place]
        assert found == [record.value for record in logs.sources[place]]


NAMES = st.sampled_from([PIPELINE, KIND, POSITION, "trace", "headrace.attempt"])
VALUES = st.sampled_from([b"p", b"events", b"labels", b"a[0]@1", b"", b"\xff", None])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=9)


@given(HEADERS)
def test_headers_of_any_kind_are_no_crash_and_ours_are_all_three(
    headers: list[tuple[str, bytes | None]],
) -> None:
    found = relayed_for(headers)

    at = [
        number
        for number in range(len(headers) - 2)
        if [name for name, _ in headers[number : number + 3]] == [PIPELINE, KIND, POSITION]
        and headers[number][1]
        and headers[number + 1][1] in (b"events", b"labels")
        and headers[number + 2][1]
    ]
    assert found == (tuple(value for _, value in headers[at[-1] : at[-1] + 3]) if at else None)


@given(HEADERS, HEADERS.filter(lambda headers: POSITION not in [name for name, _ in headers]))
def test_what_the_relay_wrote_last_counts_whatever_stands_before_and_behind(
    before: list[tuple[str, bytes | None]], behind: list[tuple[str, bytes | None]]
) -> None:
    ours = relay_headers(b"mine", b"labels", "t", 3, 7)

    assert relayed_for([*before, *ours, *behind]) == (b"mine", b"labels", b"t[3]@7")
