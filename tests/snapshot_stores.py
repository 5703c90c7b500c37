"""What every place for snapshots promises: one suite, which each of them runs.

A test module makes a class of it and says how its store is opened; each call opens another one, as another process
would, at the same place.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from stream.errors import SnapshotError
from stream.snapshots.store import SnapshotStore

#: Opens a store; all that one test opens are at the same place.
Open = Callable[[], SnapshotStore]

MOST = 1_000_000
BAD_NAMES = (
    "",
    "3",
    "3/",
    "/3/00000000000000000001-0123456789abcdef.snapshot",
    "../3/00000000000000000001-0123456789abcdef.snapshot",
    "3/../00000000000000000001-0123456789abcdef.snapshot",
    "3/1-0123456789abcdef.snapshot",
    "3/00000000000000000001-0123456789ABCDEF.snapshot",
    "3/00000000000000000001-0123456789abcdef.snapshot\n",
    "3/00000000000000000001-0123456789abcdef.snapshot.temporary",
    "03/00000000000000000001-0123456789abcdef.snapshot",
    "٣/00000000000000000001-0123456789abcdef.snapshot",
    "3/000000000001-0123456789abcdef.segment",
    "../3/000000000001-0123456789abcdef0123456789abcdef.segment",
    "03/000000000001-0123456789abcdef0123456789abcdef.segment",
    "3/000000000001-0123456789abcdef0123456789abcdef.segment\n",
)


def name_of(offset: int, partition: int = 3, seal: str = "0123456789abcdef") -> str:
    return f"{partition}/{offset:020d}-{seal}.snapshot"


def segment_of(written_at: int, partition: int = 3, digest: str = "0123456789abcdef" * 2) -> str:
    return f"{partition}/{written_at:012d}-{digest}.segment"


class StoreSuite:
    """The promises of `stream.snapshots.store.SnapshotStore`; the fixture `open_store` is the subclass's."""

    def test_what_was_put_comes_back_byte_for_byte(self, open_store: Open) -> None:
        content = bytes(range(256)) * 400
        store = open_store()

        store.put(name_of(1042), content)

        assert store.get(name_of(1042), MOST) == content
        assert store.size(name_of(1042)) == len(content)
        assert store.names(3) == [name_of(1042)]
        assert store.partitions() == [3]

    def test_an_empty_file_is_a_file(self, open_store: Open) -> None:
        store = open_store()

        store.put(name_of(1), b"")

        assert (store.get(name_of(1), MOST), store.size(name_of(1))) == (b"", 0)

    def test_a_second_put_takes_the_place_of_the_first(self, open_store: Open) -> None:
        store = open_store()
        store.put(name_of(1), b"first, and longer")

        store.put(name_of(1), b"second")

        assert store.get(name_of(1), MOST) == b"second"
        assert store.names(3) == [name_of(1)]

    def test_names_come_newest_first_and_of_one_partition(self, open_store: Open) -> None:
        store = open_store()
        for offset in (9, 100, 10, 99):
            store.put(name_of(offset), b"state")
        store.put(name_of(7, partition=30), b"state")
        store.put(name_of(8, partition=0), b"state")

        assert store.names(3) == [name_of(offset) for offset in (100, 99, 10, 9)]
        assert store.names(30) == [name_of(7, partition=30)]
        assert store.partitions() == [0, 3, 30]

    def test_where_nothing_was_put_there_is_nothing(self, open_store: Open) -> None:
        store = open_store()

        assert store.names(3) == []
        assert store.partitions() == []

    def test_what_has_another_form_of_name_is_left_out(
        self, open_store: Open, put_oddly: Callable[[str], None]
    ) -> None:
        store = open_store()
        store.put(name_of(1), b"state")
        for odd in (
            "3/README",
            f"{name_of(2)}.bak",
            f"3/.{name_of(2)[2:]}.7.temporary",
            f"3/deeper/{name_of(2)[2:]}",
        ):
            put_oddly(odd)
        put_oddly("snapshots.key")
        put_oddly(f"03/{name_of(2)[2:]}")
        put_oddly("4/README")
        put_oddly("other/README")

        assert store.names(3) == [name_of(1)]
        assert store.names(4) == []
        assert store.partitions() == [3]

    def test_segments_lie_beside_snapshots_and_are_listed_apart_from_them(self, open_store: Open) -> None:
        store = open_store()
        store.put(segment_of(20), b"newer")
        store.put(segment_of(10), b"older")
        store.put(name_of(1), b"state")
        store.put(segment_of(30, partition=4), b"another's")

        assert store.segments(3) == [segment_of(10), segment_of(20)]
        assert store.names(3) == [name_of(1)]
        assert (store.segments(4), store.names(4), store.segments(5)) == (
            [segment_of(30, partition=4)],
            [],
            [],
        )
        assert store.partitions() == [3, 4]
        assert (store.get(segment_of(10), MOST), store.size(segment_of(10))) == (b"older", 5)
        store.delete(segment_of(10))
        assert store.segments(3) == [segment_of(20)]

    def test_a_file_as_large_as_the_limit_is_read_and_one_byte_more_is_refused(
        self, open_store: Open
    ) -> None:
        store = open_store()
        store.put(name_of(1), b"x" * 1_000)

        assert store.get(name_of(1), 1_000) == b"x" * 1_000
        with pytest.raises(
            SnapshotError, match=r"has 1,000 bytes; expected at most 999 \(\[snapshots\] max_bytes\)"
        ):
            store.get(name_of(1), 999)

    def test_what_is_missing_is_said_to_be_missing(self, open_store: Open) -> None:
        store = open_store()
        store.put(name_of(1), b"state")

        for name in (name_of(2), name_of(1, partition=4)):
            with pytest.raises(FileNotFoundError):
                store.get(name, MOST)
            with pytest.raises(FileNotFoundError):
                store.size(name)

    def test_a_folder_in_place_of_a_snapshot_is_not_to_be_used(
        self, open_store: Open, put_oddly: Callable[[str], None]
    ) -> None:
        store = open_store()
        store.put(name_of(1), b"state")
        put_oddly(f"{name_of(2)}/file")

        with pytest.raises(SnapshotError, match="is no plain"):
            store.get(name_of(2), MOST)

    def test_what_is_deleted_is_gone_and_may_be_deleted_again(self, open_store: Open) -> None:
        store = open_store()
        store.put(name_of(1), b"old")
        store.put(name_of(2), b"new")

        store.delete(name_of(1))
        store.delete(name_of(1))
        store.delete(name_of(1, partition=4))

        assert store.names(3) == [name_of(2)]
        with pytest.raises(FileNotFoundError):
            store.get(name_of(1), MOST)

    def test_a_partition_whose_last_snapshot_is_deleted_has_none(self, open_store: Open) -> None:
        store = open_store()
        store.put(name_of(1), b"state")

        store.delete(name_of(1))

        assert (store.names(3), store.partitions()) == ([], [])

    def test_what_another_process_does_is_seen_at_once(self, open_store: Open) -> None:
        ours, theirs = open_store(), open_store()
        assert (ours.names(3), theirs.names(3), ours.partitions()) == ([], [], [])

        theirs.put(name_of(1), b"first")
        assert (ours.names(3), ours.partitions(), ours.size(name_of(1))) == ([name_of(1)], [3], 5)
        theirs.put(name_of(1), b"second")
        assert (ours.get(name_of(1), MOST), ours.size(name_of(1))) == (b"second", 6)
        ours.put(name_of(2), b"third")
        assert theirs.names(3) == [name_of(2), name_of(1)]
        theirs.delete(name_of(1))
        assert ours.names(3) == [name_of(2)]
        with pytest.raises(FileNotFoundError):
            ours.get(name_of(1), MOST)

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_a_name_that_is_none_is_refused_by_every_method(self, open_store: Open, name: str) -> None:
        store = open_store()

        for call in (
            lambda: store.put(name, b"state"),
            lambda: store.get(name, MOST),
            lambda: store.size(name),
            lambda: store.delete(name),
        ):
            with pytest.raises(SnapshotError, match="is no name of a snapshot"):
                call()
        assert store.partitions() == []

    def test_it_may_be_used_from_several_threads_at_once(self, open_store: Open) -> None:
        store = open_store()
        wrong: list[object] = []

        def work(partition: int) -> None:
            try:
                for offset in range(3):
                    content = f"{partition} {offset}".encode() * 1_000
                    store.put(name_of(offset, partition), content)
                    if store.get(name_of(offset, partition), MOST) != content:
                        wrong.append((partition, offset))
            except Exception as error:
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(partition,)) for partition in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert wrong == []
        assert store.partitions() == [0, 1, 2, 3]

    def test_messages_name_the_place(self, open_store: Open) -> None:
        store = open_store()
        store.put(name_of(1), b"state")

        with pytest.raises(SnapshotError) as raised:
            store.get(name_of(1), 1)

        assert str(raised.value).startswith(f"{store.address}/{name_of(1)}: ")
