"""`headrace` that finds another version of River: `python -m tests.faults.other_river run SETTINGS`."""

from __future__ import annotations

import importlib.metadata

VERSION = "0.27.0"

if __name__ == "__main__":
    real = importlib.metadata.version

    def version(distribution_name: str) -> str:
        return VERSION if distribution_name == "river" else real(distribution_name)

    importlib.metadata.version = version

    from stream.cli import main  # what it imports takes the function from there

    main()
