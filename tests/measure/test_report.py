"""Rows, and the files that are made of them."""

import csv
import io
import re

import pytest

from detr_d2.measure.accuracy import Interval
from detr_d2.measure.published import PUBLISHED, published
from detr_d2.measure.report import Comparison, to_csv, to_html, to_markdown
from detr_d2.measure.table import build_rows


def result(label: str, figures: dict, parts: dict) -> dict:
    return {"label": label, "published": figures, "parts": {name: {"result": value} for name, value in parts.items()}}


@pytest.fixture
def comparison() -> Comparison:
    latency = {part: {"p50": 20.0, "p95": 25.0, "rounds": [19.0, 22.0]} for part in ("total", "model")}
    results = [
        result(
            "detr_R_50_500ep",
            published("detr_R_50_500ep", "config"),
            {
                "accuracy": {"bbox/AP": 41.93, "bbox/APs": None},
                "size": {"total": 41524768, "trainable": 41302368},
                "latency": {"batch 1 fp32": latency, "batch 1 amp": {"error": "no kernel for bf16"}},
            },
        ),
        result("mine <b>|x", {}, {"flops": {"mean": 86.2e9, "range": [80e9, 90e9]}}),
    ]
    intervals = {"bbox": ({"a": Interval(41.9, 40, 43)}, {("a", "b"): Interval(1.25, -0.5, 3)})}
    labels = [each["label"] for each in results]
    return Comparison(labels, build_rows(results, [1, 4]), ["a fact"], intervals, 500, ["a note"], {"Plot": b"png"})


def test_rows_hold_what_was_measured_beside_what_was_published(comparison):
    rows = {row.metric.title: row for row in comparison.rows}
    ap = rows["box AP"]
    assert (ap.measured[0].value, ap.published[0]) == (41.93, 42.0)
    assert (ap.measured[1], ap.published[1]) == (None, None)
    assert rows["parameters (M)"].texts() == ["parameters (M)", "41.52, 41.52 p", ""]
    assert rows["GFLOPs (multiply-adds), mean"].texts()[1:] == ["86.00 p", "86.20 (80.00 - 90.00)"]
    assert rows["latency, batch 1, fp32 (ms/image), p50"].measured[0].spread == (19.0, 22.0)
    assert rows["latency, batch 1, amp (ms/image), p50"].texts()[1:] == ["failed", ""]
    assert "box AP S" not in rows  # no object of that size, no published figure
    assert "mask AP" not in rows


def test_markdown(comparison):
    text = to_markdown(comparison)
    lines = [re.sub(" +", " ", line) for line in text.splitlines()]
    assert "| | box AP | box AP50 | parameters (M) | GFLOPs | latency (ms) |" in lines
    assert "| detr_R_50_500ep | 41.9, 42.0 p | 62.4 p | 41.52, 41.52 p | 86.00 p | 20.0 |" in lines
    assert "| mine <b>/x | | | | 86.20 | |" in lines
    details = lines[lines.index("<details><summary>All figures</summary>") :]
    assert "| | detr_R_50_500ep | mine <b>/x |" in details
    assert "| box AP | 41.9, 42.0 p | |" in details
    assert "| GFLOPs (multiply-adds), mean | 86.00 p | 86.20 (80.00 - 90.00) |" in details
    assert "500 resamples" in text
    assert "| a - b | +1.2 (-0.5 to +3.0) |" in lines
    assert "- a note" in text
    assert "![Plot](plot.png)" in text


def test_csv_has_a_row_a_model_and_says_where_each_column_is_from(comparison):
    rows = list(csv.DictReader(io.StringIO(to_csv(comparison))))
    assert [row["model"] for row in rows] == ["detr_R_50_500ep", "mine <b>|x"]
    assert float(rows[0]["box AP [measured]"]) == 41.93
    assert float(rows[0]["box AP [published]"]) == 42.0
    assert rows[1]["box AP [measured]"] == ""
    assert float(rows[1]["GFLOPs (multiply-adds), mean [measured max]"]) == 90


def test_html_escapes_names_and_holds_pictures(comparison):
    text = to_html(comparison)
    assert "mine &lt;b&gt;|x" in text
    assert "mine <b>" not in text
    assert "data:image/png;base64,cG5n" in text
    assert re.search("<td>41.9, 42.0 p *</td>", text)
    assert text.index("a note") < text.index("a fact")


def test_published_figures_are_of_configs_that_exist(repo):
    names = {path.stem for path in (repo / "configs").rglob("*.yaml")}
    assert set(PUBLISHED) <= names
    assert published("mine", "fcos_R_50_1x") == {"bbox/AP": 37.1}
    assert published("mine", "unknown") == {}
