"""What knows of topics, offsets and time: settings, records, the pipeline, the worker and the command line.

For notebooks: `from stream import backtest`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stream.backtesting import BacktestResult, backtest

__all__ = ["BacktestResult", "backtest"]


def __getattr__(name: str) -> object:
    # Looked up when asked for: River takes a second to import, and no command should wait for it in vain.
    if name in __all__:
        from stream import backtesting  # noqa: PLC0415

        return getattr(backtesting, name)
    raise AttributeError(f"module 'stream' has no attribute {name!r}")
