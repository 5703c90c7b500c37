"""A number for each claim: `make bench` and `make bench-clients` measure, and write BENCHMARKS.md."""
