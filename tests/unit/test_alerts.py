"""The alert rules and the queries in the docs, held against the list of metrics and against promtool."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from monitors import METRICS
from monitors.telemetry import Family
from tests.unit.test_docs import BLOCKS, anchors

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "alerts.yml"
TESTS = ROOT / "deploy" / "alerts.test.yml"
RUNBOOKS = ROOT / "docs" / "how-to" / "scrape-with-prometheus.md"
QUERIES = [
    pytest.param(line, id=block.place)
    for block in BLOCKS
    if block.language == "promql"
    for line in block.text.splitlines()
]


def promtool(*arguments: str | Path) -> None:
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def alerts() -> list[str]:
    return re.findall(r"- alert: (\w+)", RULES.read_text(encoding="utf-8"))


def series() -> set[str]:
    """Every name that a series can have."""
    found = set()
    for spec in (family.value for family in Family):
        suffixes = ("_bucket", "_sum", "_count") if spec.kind == "histogram" else ("",)
        found |= {spec.name + suffix for suffix in suffixes}
    return found


def test_the_rules_fire_when_they_should(prometheus_installed: None) -> None:
    promtool("check", "rules", RULES)
    promtool("test", "rules", TESTS)


def test_every_rule_is_tested_and_has_severity_summary_and_a_section_in_the_docs() -> None:
    text = RULES.read_text(encoding="utf-8")
    tested = set(re.findall(r"alertname: (\w+)", TESTS.read_text(encoding="utf-8")))

    assert tested == set(alerts())
    for rule in text.split("- alert: ")[1:]:
        name = rule.split("\n", 1)[0]
        assert re.search(r"severity: (critical|warning|info)\n", rule), name
        assert re.search(r"summary: .+\n", rule), name
        assert f"runbook: docs/how-to/{RUNBOOKS.name}#{name.lower()}\n" in rule
        assert name.lower() in anchors(RUNBOOKS)


def test_no_rule_and_no_page_asks_for_a_series_that_does_not_exist() -> None:
    texts = [RULES.read_text(encoding="utf-8"), TESTS.read_text(encoding="utf-8")]
    texts += [re.sub(r"\(#\w+\)", "", RUNBOOKS.read_text(encoding="utf-8"))]
    plain = {family.value.name for family in Family}

    asked = {name for text in texts for name in re.findall(r"\bheadrace_\w+", text)}

    assert asked - series() - plain == set()


def test_the_rule_on_baselines_knows_which_metrics_are_better_when_they_are_lower() -> None:
    lower = "|".join(spec.name for spec in METRICS.values() if not spec.higher_is_better)

    assert set(re.findall(r'metric!?[=!]~?"([^"]+)"', RULES.read_text(encoding="utf-8"))) == {lower}


@pytest.mark.parametrize("query", QUERIES)
def test_every_query_in_the_docs_can_be_asked(query: str, prometheus_installed: None, tmp_path: Path) -> None:
    rule = tmp_path / "rule.yml"
    rule.write_text(f"groups: [{{name: g, rules: [{{record: r, expr: '{query}'}}]}}]\n", encoding="utf-8")

    promtool("check", "rules", rule)
