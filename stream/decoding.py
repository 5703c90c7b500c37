"""From settings to what reads records: events, and what comes from a labels topic."""

from __future__ import annotations

from stream.codec import EventDecoder, LabelDecoder
from stream.settings import AllBut, Settings


def new_decoder(settings: Settings) -> EventDecoder:
    """What reads events as the settings say where things are in them."""
    event = settings.event
    features = event.features
    return EventDecoder(
        task=settings.task,
        id_field=event.id,
        time_field=event.time,
        label_field=event.label,
        features=None
        if isinstance(features, AllBut)
        else features
        if isinstance(features, str)
        else list(features),
        excluded=features.except_ if isinstance(features, AllBut) else (),
        positive=event.positive,
        max_ahead_seconds=event.max_ahead_seconds,
        pipeline=settings.name,
        labels=new_label_decoder(settings),
    )


def new_label_decoder(settings: Settings) -> LabelDecoder:
    """What reads what comes from a labels topic; a field that is not named is where it is in an event."""
    event, labels = settings.event, settings.labels
    return LabelDecoder(
        task=settings.task,
        id_field=labels.id or event.id,
        time_field=labels.time or event.time,
        label_field=labels.label or event.label,
        positive=event.positive if labels.positive is None else labels.positive,
        max_ahead_seconds=event.max_ahead_seconds,
    )
