"""Errors of this package.

ValueError
  └── LearnerError    plug-in or parameters are wrong: fix the class, the function or the settings
"""

from __future__ import annotations


class LearnerError(ValueError):
    """A learner or its parameters cannot be used: what, what was expected, what to do."""
