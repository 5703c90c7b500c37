"""What a dashboard is made of, and how it becomes the JSON that Grafana reads. Knows no metric by name."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final, Literal

from monitors.telemetry import Family, FamilySpec

#: Columns of Grafana's grid.
COLUMNS: Final = 24
#: Version of Grafana's schema that is written; newer Grafanas bring it up to theirs when they load it.
SCHEMA_VERSION: Final = 39
#: Where every panel's data comes from: the one that the variable of this name chooses.
DATASOURCE: Final = {"type": "prometheus", "uid": "${datasource}"}
#: Hours of which a dashboard tells when it is opened.
FROM: Final = "now-6h"

Kind = Literal["timeseries", "stat", "state-timeline", "table"]
Unit = Literal["short", "s", "ops", "bytes", "percentunit"]
Color = Literal["green", "yellow", "red", "blue"]


class Selector:
    """Writes selectors whose labels are those of their family, within what a dashboard's variables choose.

    Args:
        variables: Names of the variables; each is the name of a label. `instance` is one of every series.

    Example:
        >>> at = Selector("pipeline", "partition")
        >>> at(Family.LAG)
        'headrace_lag_records{pipeline=~"$pipeline",partition=~"$partition"}'
        >>> at(Family.METRIC, over="window", metric="~$metric")
        'headrace_metric_value{pipeline=~"$pipeline",partition=~"$partition",over="window",metric=~"$metric"}'
    """

    def __init__(self, *variables: str) -> None:
        self._variables = variables

    def __call__(self, family: Family, *, suffix: str = "", **labels: str) -> str:
        """A selector; a label's value that begins with `~` is a regular expression."""
        spec = family.value
        unknown = set(labels) - set(spec.labels)
        if unknown:
            raise ValueError(f"{spec.name} has no label {', '.join(sorted(unknown))}; expected {spec.labels}")
        found = [f'{name}=~"${name}"' for name in self._variables if name in (*spec.labels, "instance")]
        for name, value in labels.items():
            operator = "=~" if value.startswith("~") else "="
            found.append(f'{name}{operator}"{value.removeprefix("~")}"')
        return f"{spec.name}{suffix}" + (f"{{{','.join(found)}}}" if found else "")

    def rate(self, family: Family, *, suffix: str = "", **labels: str) -> str:
        """How much a counter grows in a second."""
        return f"rate({self(family, suffix=suffix, **labels)}[$__rate_interval])"

    def mean(self, family: Family, by: str, **labels: str) -> str:
        """The mean of what a histogram has counted."""
        parts = [
            f"sum by ({by}) ({self.rate(family, suffix=suffix, **labels)})" for suffix in ("_sum", "_count")
        ]
        return " / ".join(parts)

    def quantile(self, level: float, family: Family, by: str, **labels: str) -> str:
        """An estimate of a quantile of what a histogram has counted."""
        buckets = self.rate(family, suffix="_bucket", **labels)
        return f"histogram_quantile({level}, sum by ({by + ', ' if by else ''}le) ({buckets}))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One expression of a panel."""

    expr: str
    #: How its series are called: labels between double braces.
    legend: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One picture."""

    title: str
    queries: Sequence[Query]
    #: The families that it shows: their meanings and remedies become its description.
    about: Sequence[Family] = ()
    #: What there is to say beyond them, in front.
    note: str = ""
    kind: Kind = "timeseries"
    unit: Unit = "short"
    #: Of `COLUMNS`.
    width: int = 8
    height: int = 8
    #: From which value on which colour; below the first, green.
    colors: Mapping[float, Color] = field(default_factory=dict)
    #: Values that have names, and their colours.
    names: Mapping[int, tuple[str, Color]] = field(default_factory=dict)
    #: Of a picture over time: bars for what happened within a step, instead of lines.
    is_bars: bool = False
    #: Of a table: the columns, in order, with their titles.
    columns: Mapping[str, str] = field(default_factory=dict)

    @property
    def description(self) -> str:
        """What Grafana shows behind the panel's little `i`."""
        parts = [self.note] if self.note else []
        parts += [_described(family.value) for family in self.about]
        return "\n\n".join(parts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """Panels under a heading, from left to right."""

    title: str
    panels: Sequence[Panel]


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A choice above a dashboard: one or many values of a label, or all."""

    name: str
    label: str
    #: The series whose values of that label are offered.
    of: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """What happened, as marks in every picture."""

    name: str
    #: A mark wherever it has a series.
    expr: str
    title: str
    text: str
    color: Color


@dataclass(frozen=True, slots=True, kw_only=True)
class Dashboard:
    """One page."""

    #: Part of its address; never changes.
    uid: str
    title: str
    description: str
    variables: Sequence[Variable]
    annotations: Sequence[Annotation]
    rows: Sequence[Row]

    def to_json(self) -> dict[str, Any]:
        """What Grafana reads."""
        return {
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["headrace"],
            "schemaVersion": SCHEMA_VERSION,
            "editable": True,
            "graphTooltip": 1,
            "refresh": "30s",
            "time": {"from": FROM, "to": "now"},
            "timezone": "browser",
            "links": [
                {
                    "type": "dashboards",
                    "title": "Headrace",
                    "tags": ["headrace"],
                    "asDropdown": False,
                    "includeVars": True,
                    "keepTime": True,
                }
            ],
            "templating": {"list": [_datasource_variable(), *map(_variable, self.variables)]},
            "annotations": {"list": [_annotation(item) for item in self.annotations]},
            "panels": list(_laid_out(self.rows)),
        }


def _described(spec: FamilySpec) -> str:
    bad = f" **When it is bad.** {spec.remedy}" if spec.remedy else ""
    return f"`{spec.name}`: {spec.meaning}{bad}"


def _datasource_variable() -> dict[str, Any]:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
    }


def _variable(item: Variable) -> dict[str, Any]:
    query = f"label_values({item.of}, {item.name})"
    return {
        "name": item.name,
        "label": item.label,
        "type": "query",
        "datasource": DATASOURCE,
        "definition": query,
        "query": {"query": query, "refId": "values"},
        "refresh": 2,  # whenever the time changes
        "sort": 3,  # by number
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": ["All"], "value": ["$__all"]},
        "hide": 0,
    }


def _annotation(item: Annotation) -> dict[str, Any]:
    return {
        "name": item.name,
        "datasource": DATASOURCE,
        "enable": True,
        "iconColor": item.color,
        "expr": item.expr,
        "step": "60s",
        "titleFormat": item.title,
        "textFormat": item.text,
        "useValueForTime": False,
    }


def _laid_out(rows: Sequence[Row]) -> Iterator[dict[str, Any]]:
    numbers, top = count(1), 0
    for row in rows:
        place = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        head = {"id": next(numbers), "type": "row", "title": row.title, "gridPos": place}
        yield {**head, "collapsed": False, "panels": []}
        top, left, height = top + 1, 0, 0
        for panel in row.panels:
            if left + panel.width > COLUMNS:
                top, left, height = top + height, 0, 0
            place = {"x": left, "y": top, "w": panel.width, "h": panel.height}
            yield {"id": next(numbers), "gridPos": place, **_panel(panel)}
            left, height = left + panel.width, max(height, panel.height)
        top += height


def _panel(panel: Panel) -> dict[str, Any]:
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": DATASOURCE,
        "fieldConfig": {"defaults": _field(panel), "overrides": []},
        "options": _options(panel),
        "transformations": _transformations(panel),
        "targets": [
            _target(panel, chr(ord("A") + number), query) for number, query in enumerate(panel.queries)
        ],
    }


def _target(panel: Panel, name: str, query: Query) -> dict[str, Any]:
    is_table = panel.kind == "table"
    return {
        "refId": name,
        "datasource": DATASOURCE,
        "editorMode": "code",
        "expr": query.expr,
        "legendFormat": query.legend,
        "instant": is_table,
        "range": not is_table,
        "format": "table" if is_table else "time_series",
    }


def _field(panel: Panel) -> dict[str, Any]:
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    steps += [{"color": color, "value": value} for value, color in panel.colors.items()]
    found: dict[str, Any] = {
        "unit": panel.unit,
        "color": {"mode": "palette-classic" if panel.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": steps},
        "mappings": [
            {
                "type": "value",
                "options": {
                    str(value): {"text": text, "color": color, "index": index}
                    for index, (value, (text, color)) in enumerate(panel.names.items())
                },
            }
        ]
        if panel.names
        else [],
    }
    if panel.kind == "timeseries":
        found["custom"] = {
            "drawStyle": "bars" if panel.is_bars else "line",
            "fillOpacity": 60 if panel.is_bars else 0,
            "lineWidth": 1,
            "showPoints": "never",
            "spanNulls": False,
            "stacking": {"mode": "normal" if panel.is_bars else "none"},
        }
    if panel.kind == "state-timeline":
        found["custom"] = {"fillOpacity": 70, "lineWidth": 0}
    return found


def _options(panel: Panel) -> dict[str, Any]:
    legend = {"showLegend": True, "displayMode": "list", "placement": "bottom"}
    tooltip = {"mode": "multi", "sort": "desc"}
    match panel.kind:
        case "timeseries":
            return {"legend": legend, "tooltip": tooltip}
        case "stat":
            return {
                "colorMode": "value",
                "graphMode": "area",
                "justifyMode": "auto",
                "orientation": "auto",
                "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
                "textMode": "auto",
            }
        case "state-timeline":
            return {
                "alignValue": "left",
                "mergeValues": True,
                "rowHeight": 0.9,
                "showValue": "never",
                "legend": legend,
                "tooltip": tooltip,
            }
        case "table":
            return {"showHeader": True, "cellHeight": "sm"}


def _transformations(panel: Panel) -> list[dict[str, Any]]:
    if panel.kind != "table":
        return []
    names = list(panel.columns)
    return [
        {"id": "filterFieldsByName", "options": {"include": {"names": names}}},
        {
            "id": "organize",
            "options": {
                "indexByName": {name: index for index, name in enumerate(names)},
                "renameByName": dict(panel.columns),
            },
        },
    ]
