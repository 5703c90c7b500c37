"""Pipelines to measure: a settings file, and topics for what comes out."""

from __future__ import annotations

from pathlib import Path

from benchmarks.topics import create_topics, delete_topics

TEMPLATE = """\
name = "{name}"
task = "binary"

[kafka]
bootstrap_servers = "{servers}"

[topics]
events = "{events}"

[learner]
{learner}

[metrics]
use = ["accuracy"]

[[drift]]
watch = "error"
detector = "adwin"

[worker]
instance = "bench"
"""
OUTPUTS = ("predictions", "alerts", "dead-letters", "status")


class MeasuredPipeline:
    """A settings file in a folder, with its output topics; the topics are deleted by `close`.

    Args:
        folder: Where the file goes.
        name: Of the pipeline; a new one begins at the first event.
        model: `package.module:function`, or a learner's name.
    """

    def __init__(self, folder: Path, name: str, servers: str, events: str, model: str) -> None:
        self._servers = servers
        self._topics = [f"{name}.{output}" for output in OUTPUTS]
        self.predictions = self._topics[0]
        self.settings = folder / f"{name}.toml"
        learner = f'build = "{model}"' if ":" in model else f'use = "{model}"'
        text = TEMPLATE.format(name=name, servers=servers, events=events, learner=learner)
        self.settings.write_text(text, encoding="utf-8")
        create_topics(servers, *self._topics)

    def close(self) -> None:
        """Let the broker have its disk back."""
        delete_topics(self._servers, *self._topics)
