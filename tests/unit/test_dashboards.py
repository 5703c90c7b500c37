"""Grafana's dashboards and every PromQL expression of ours, held against the list of metrics and against promtool."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from deploy.grafana import build
from deploy.grafana.panels import COLUMNS, Selector
from monitors.telemetry import Family, MonitorTelemetry
from tests.promql import read
from tests.unit.test_docs import BLOCKS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
DASHBOARDS: dict[str, dict[str, Any]] = {
    path.name: json.loads(path.read_text(encoding="utf-8")) for path in sorted(FOLDER.glob("*.json"))
}
RULES = yaml.safe_load((ROOT / "deploy" / "alerts.yml").read_text(encoding="utf-8"))
NAMES = sorted(DASHBOARDS)
#: Labels that every series gets from Prometheus' scrape configuration.
OF_TARGET = {"job", "instance"}


class Asked(NamedTuple):
    """An expression, and where it stands."""

    place: str
    expr: str


def panels(dashboard: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def of_dashboards() -> Iterator[Asked]:
    for name, dashboard in DASHBOARDS.items():
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield Asked(f"{name}: {panel['title']} {target['refId']}", target["expr"])
        for annotation in dashboard["annotations"]["list"]:
            yield Asked(f"{name}: annotation {annotation['name']}", annotation["expr"])


def of_rules() -> Iterator[Asked]:
    for group in RULES["groups"]:
        for rule in group["rules"]:
            yield Asked(rule["alert"], rule["expr"])


def of_docs() -> Iterator[Asked]:
    for block in BLOCKS:
        if block.language == "promql":
            for line in block.text.splitlines():
                yield Asked(block.place, line)


def as_prometheus_takes_it(expr: str) -> str:
    """What Grafana sends: with its variables filled in."""
    return re.sub(r"\$(\w+)", ".*", expr.replace("$__rate_interval", "5m"))


ASKED = [*of_dashboards(), *of_rules(), *of_docs()]
EVERY = [pytest.param(item, id=f"{item.place}: {item.expr}"[:120]) for item in ASKED]


def series() -> dict[str, set[str]]:
    """Every series that can be asked for, with its labels."""
    found: dict[str, set[str]] = {"up": OF_TARGET}
    for spec in (family.value for family in Family):
        suffixes = ("_bucket", "_sum", "_count") if spec.kind == "histogram" else ("",)
        for suffix in suffixes:
            found[spec.name + suffix] = {*spec.labels, *OF_TARGET} | (
                {"le"} if suffix == "_bucket" else set()
            )
    for family in text_string_to_metric_families(MonitorTelemetry(version="1").exposition()[1].decode()):
        for sample in family.samples:
            if sample.name.startswith("process_"):
                found[sample.name] = OF_TARGET
    every_label = set().union(*found.values())
    return found | {"ALERTS": every_label | {"alertname", "alertstate", "severity"}}


SERIES = series()


# Expressions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("asked", EVERY)
def test_every_expression_asks_for_series_and_labels_that_exist(asked: Asked) -> None:
    expression = read(asked.expr)

    assert expression.selectors
    for selector in expression.selectors:
        assert selector.name in SERIES
        assert {label for label, _ in selector.labels} <= SERIES[selector.name]
    labels = set().union(*(SERIES[selector.name] for selector in expression.selectors))
    assert expression.grouping <= labels


def test_every_expression_is_promql(prometheus_installed: None, tmp_path: Path) -> None:
    rules = [
        {"record": f"r{number}", "expr": as_prometheus_takes_it(item.expr)}
        for number, item in enumerate(ASKED)
    ]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "g", "rules": rules}]}), encoding="utf-8")

    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(ASKED)} rules found" in done.stdout


@pytest.mark.parametrize("asked", [pytest.param(item, id=item.place) for item in of_rules()])
def test_every_alert_names_only_labels_that_its_expression_can_have(asked: Asked) -> None:
    (rule,) = [rule for group in RULES["groups"] for rule in group["rules"] if rule["alert"] == asked.place]
    labels = set().union(*(SERIES[selector.name] for selector in read(asked.expr).selectors))

    named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))

    assert named <= labels


# Dashboards -----------------------------------------------------------------------------------------------------


def test_the_files_are_what_the_code_builds() -> None:
    built = {name: build.text(dashboard) for name, dashboard in build.dashboards().items()}
    found = {name: (FOLDER / name).read_text(encoding="utf-8") for name in NAMES}

    assert found == built, "run: make dashboards"


def test_building_deletes_a_file_that_is_no_dashboard_any_more(tmp_path: Path) -> None:
    (tmp_path / "old.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")

    build.main(tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == [*NAMES, "notes.txt"]


def test_every_family_is_on_a_dashboard() -> None:
    asked = {selector.name for item in of_dashboards() for selector in read(item.expr).selectors}
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) for name in asked} | asked

    assert [family.value.name for family in Family if family.value.name not in plain] == []


def test_no_two_dashboards_have_one_address_or_title() -> None:
    assert len({dashboard["uid"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    assert len({dashboard["title"] for dashboard in DASHBOARDS.values()}) == len(DASHBOARDS)
    for name, dashboard in DASHBOARDS.items():
        assert name == f"{dashboard['uid']}.json"
        assert re.fullmatch(r"[a-z-]{1,40}", dashboard["uid"])


@pytest.mark.parametrize("name", NAMES)
def test_panels_fit_into_the_grid_and_do_not_overlap(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    numbers = [panel["id"] for panel in DASHBOARDS[name]["panels"]]
    for panel in DASHBOARDS[name]["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= COLUMNS
        cells = {
            (place["x"] + right, place["y"] + down)
            for right in range(place["w"])
            for down in range(place["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells

    assert len(set(numbers)) == len(numbers)


@pytest.mark.parametrize("name", NAMES)
def test_every_panel_says_what_it_shows_and_asks_the_chosen_data_source(name: str) -> None:
    for panel in panels(DASHBOARDS[name]):
        assert panel["description"], panel["title"]
        assert panel["targets"], panel["title"]
        for item in (panel, *panel["targets"]):
            assert item["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])


@pytest.mark.parametrize("name", NAMES)
def test_a_panel_is_about_what_it_asks_for(name: str) -> None:
    specs = {family.value.name: family.value for family in Family}
    for panel in panels(DASHBOARDS[name]):
        told = set(re.findall(r"^`(headrace_\w+)`: ", panel["description"], re.MULTILINE))
        asked = {
            re.sub(r"_(bucket|sum|count)$", "", selector.name)
            if selector.name not in specs
            else selector.name
            for target in panel["targets"]
            for selector in read(target["expr"]).selectors
        }
        assert {name for name in asked if name in specs} == told, panel["title"]


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_is_defined_used_and_of_a_label_that_exists(name: str) -> None:
    dashboard = DASHBOARDS[name]
    defined = {item["name"]: item for item in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard["panels"])))
    used |= set(re.findall(r"\$\{?([a-z]\w*)", json.dumps(dashboard["annotations"])))

    assert set(defined) == used
    for variable in defined.values():
        if variable["type"] == "query":
            query = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["definition"])
            assert query is not None
            (selector,) = read(query[1]).selectors
            assert query[2] == variable["name"]
            assert {query[2], *(label for label, _ in selector.labels)} <= SERIES[selector.name]
            assert variable["query"]["query"] == variable["definition"]


@pytest.mark.parametrize("name", NAMES)
def test_every_legend_and_every_column_is_of_a_label_that_exists(name: str) -> None:
    every = set().union(*SERIES.values())
    for panel in panels(DASHBOARDS[name]):
        for target in panel["targets"]:
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= every
        for step in panel["transformations"]:
            if step["id"] == "filterFieldsByName":
                assert set(step["options"]["include"]["names"]) <= every


def test_a_label_that_a_family_does_not_have_is_refused() -> None:
    at = Selector("pipeline")

    with pytest.raises(ValueError, match="headrace_lag_records has no label stage; expected"):
        at(Family.LAG, stage="decode")


# Provisioning ---------------------------------------------------------------------------------------------------


def test_grafana_is_told_of_a_data_source_and_of_the_dashboards() -> None:
    folder = ROOT / "deploy" / "grafana" / "provisioning"
    sources = yaml.safe_load((folder / "datasources" / "prometheus.yml").read_text(encoding="utf-8"))
    providers = yaml.safe_load((folder / "dashboards" / "headrace.yml").read_text(encoding="utf-8"))
    scrapes = yaml.safe_load((ROOT / "deploy" / "prometheus.yml").read_text(encoding="utf-8"))

    (source,) = sources["datasources"]
    (provider,) = providers["providers"]

    assert (source["type"], source["isDefault"], source["editable"]) == ("prometheus", True, False)
    assert source["jsonData"]["timeInterval"] == scrapes["global"]["scrape_interval"]
    assert (provider["type"], provider["disableDeletion"]) == ("file", True)
