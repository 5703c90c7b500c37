"""How Hypothesis works here."""

from __future__ import annotations

import hypothesis

# A slow machine is no failure, and what a run finds must not depend on what an earlier one left behind.
hypothesis.settings.register_profile(
    "headrace",
    deadline=None,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("headrace")
