"""The parts that pages are made of: each draws, in the browser, the picture that it is shown.

A picture is plain data. It reaches the page as text, by interpolation, never as HTML.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nicegui import events
from nicegui.element import Element
from nicegui.elements import echart as _echart  # noqa: F401  # registers the library that the charts import


class Part(Element):
    """A part of a page; `show` gives it another picture, and nothing is sent if it is the same."""

    def show(self, **picture: Any) -> None:
        """Show this; what is not named stays."""
        changed = {name: value for name, value in picture.items() if self._props.get(name) != value}
        if changed:
            self._props.update(changed)
            self.update()

    def listen(self, event: str, handler: Callable[[Any], Any]) -> None:
        """Call with what the part says at an event of its own."""

        def handle(arguments: events.GenericEventArguments) -> Any:
            return handler(arguments.args)

        self.on(event, handle)


class Top(Part, component="parts/headrace_top.js", dependencies=["parts/headrace_shared.js"]):
    """The bar on top. Says `back` with the query that the browser went back to."""


class Banner(Part, component="parts/headrace_banner.js"):
    """What is wrong now."""


class Overview(Part, component="parts/headrace_overview.js"):
    """A row for each pipeline."""


class Head(Part, component="parts/headrace_head.js"):
    """Name, state and key figures of a pipeline."""


class Controls(Part, component="parts/headrace_controls.js"):
    """Choices in a row. Says `choose` with `name` and `value`."""


class Tabs(Part, component="parts/headrace_tabs.js"):
    """Tabs. Says `choose` with a tab's name."""


class Chart(Part, component="parts/headrace_chart.js"):
    """Figures over time. Says `zoom` with two moments or None."""


class Table(Part, component="parts/headrace_table.js"):
    """A table. Says `choose` with what a cell stands for, and `more`."""


class Facts(Part, component="parts/headrace_facts.js"):
    """Facts with their names, and shares as bars."""


class Watches(Part, component="parts/headrace_watches.js"):
    """A card for each drift watch. Says `choose` with a partition."""


class Notice(Part, component="parts/headrace_notice.js"):
    """Nothing to show: why, and what to do. Says `act` if its button was pressed."""
