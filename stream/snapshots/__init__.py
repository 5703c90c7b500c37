"""Snapshots: a partition's state in a file, sealed, and checked before it is trusted.

`file` says what a snapshot is and opens one, `store` and `objects` where they lie, `key` what seals them, `keeper`
when one is taken and which one a partition is restored from.
"""
