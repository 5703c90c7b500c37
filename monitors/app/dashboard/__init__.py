"""The dashboard: pages made with NiceGUI from a `Site`.

`words`, `view`, `charts`, `frame` and `panels` decide what is shown, in plain Python; `parts` and its JavaScript draw
it; `pages` put the parts in their places and keep them up to date.
"""

from monitors.app.dashboard.pages import register
from monitors.app.site import Site


def build(site: Site) -> None:
    """Register the pages."""
    register(site)
