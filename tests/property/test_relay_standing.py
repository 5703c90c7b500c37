"""For how long a record has waited to be relayed, against every look there ever was."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitors.fleet import RelayState, Source, Standing

SOURCE = Source("labels", 3)


@given(st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9), st.integers(0, 12)), max_size=80))
def test_a_record_waits_since_the_first_look_at_which_it_was_there(steps: list[tuple[int, int, int]]) -> None:
    relay = RelayState("p.relay", ["labels"])
    looks: list[tuple[float, int]] = []
    now, end, relayed = 0.0, 0, 0
    for seconds, written, brought in steps:
        now, end = now + seconds, end + written
        relayed = min(end, relayed + brought)
        looks.append((now, end))

        relay.take({SOURCE: Standing(relayed, 0, end)}, now)

        item = relay.partitions[SOURCE]
        assert item.lag_records == end - relayed
        assert item.waits_since == next((at for at, there in looks if there > relayed), None)
