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
instance = "{instance}"
{more}"""
OUTPUTS = ("predictions", "alerts", "dead-letters", "status")


class MeasuredPipeline:
    """A settings file in a folder, with its output topics; the topics are deleted by `close`.

    Args:
        folder: Where the file goes.
        name: Of the pipeline; a new one begins at the first event.
        model: `package.module:function`, or a learner's name.
        more: Further lines for the end of the settings file, which is within `[worker]`.
    """

    def __init__(
        self, folder: Path, name: str, servers: str, events: str, model: str, *, more: str = ""
    ) -> None:
        self.name = name
        self._servers = servers
        self._folder = folder
        self._topics = [f"{name}.{output}" for output in OUTPUTS]
        self.predictions = self._topics[0]
        self._values = {
            "name": name,
            "servers": servers,
            "events": events,
            "learner": f'build = "{model}"' if ":" in model else f'use = "{model}"',
            "more": more,
        }
        self.settings = self.settings_of("bench")
        create_topics(servers, *self._topics)

    def settings_of(self, instance: str) -> Path:
        """The settings file of a worker of its own name."""
        path = self._folder / f"{self.name}-{instance}.toml"
        path.write_text(TEMPLATE.format(instance=instance, **self._values), encoding="utf-8")
        return path

    def close(self) -> None:
        """Let the broker have its disk back."""
        delete_topics(self._servers, *self._topics)
