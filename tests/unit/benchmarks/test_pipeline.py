from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.children import ROOT
from benchmarks.reader import quantile
from benchmarks.results import write_section


@pytest.mark.full
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize(
    ("module", "section"), [("pipeline", "make bench"), ("clients", "make bench-clients")]
)
def test_a_quick_run_writes_figures_into_its_section(
    kafka_installed: None, tmp_path: Path, module: str, section: str
) -> None:
    output = tmp_path / "BENCHMARKS.md"
    output.write_text("# Kept\n")

    subprocess.run(
        [sys.executable, "-m", f"benchmarks.{module}", "--quick", "--output", str(output)],
        cwd=ROOT,
        env=os.environ,
        check=True,
    )

    text = output.read_text()
    assert text.startswith("# Kept\n")
    assert f"<!-- {section}: begin -->" in text
    assert "A quick run" in text
    assert re.search(
        r"\n\| .*logistic regression \| [\d,]+ \|" if module == "pipeline" else r"\n\| Headrace.* [\d,]+ \|",
        text,
    )
    assert "failed" not in text
    assert str(tmp_path) not in text


def test_a_section_is_replaced_and_the_rest_of_the_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "BENCHMARKS.md"
    path.write_text("# Mine\n")

    write_section("one", "first", path)
    write_section("two", "second", path)
    write_section("one", "third", path)

    assert path.read_text() == (
        "# Mine\n\n<!-- one: begin -->\nthird\n<!-- one: end -->\n"
        "\n<!-- two: begin -->\nsecond\n<!-- two: end -->\n"
    )


def test_a_quantile_is_the_smallest_value_that_so_many_do_not_exceed() -> None:
    hundred = [float(value) for value in range(1, 101)]

    assert [quantile(hundred, share) for share in (0.5, 0.99, 1.0)] == [50.0, 99.0, 100.0]
