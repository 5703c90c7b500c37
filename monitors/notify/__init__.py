"""Telling people what goes on: notices in, messages to chat, mail, pagers and webhooks out."""

from monitors.notify.notices import SEVERITIES, Message, Notice, State
from monitors.notify.notifier import ChannelConfig, ChannelFacts, Notifier
from monitors.notify.outbox import ChannelPolicy, Outbox

__all__ = [
    # nouns
    "Notice",
    "Message",
    "SEVERITIES",
    "State",
    # one channel
    "ChannelPolicy",
    "Outbox",
    # all of them
    "Notifier",
    "ChannelConfig",
    "ChannelFacts",
]
