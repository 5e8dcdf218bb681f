"""The report's text."""

from detr_d2.checkpoint import LoadReport
from detr_d2.checkpoint.report import group_names


def test_names_are_grouped_by_prefix():
    names = [f"backbone.res{s}.{i}.conv1.weight" for s in (2, 3) for i in range(40)] + ["query_embed.weight"]
    assert group_names(names) == "backbone.res2.* (40), backbone.res3.* (40), query_embed.weight"
    assert group_names(["a.b.weight", "a.b.bias"]) == "a.b.bias, a.b.weight"
    assert group_names([]) == ""


def test_many_groups_are_cut():
    assert group_names([f"m{i}.weight" for i in range(12)], max_groups=2) == "m0.weight, m1.weight and 10 more groups"


def test_text_has_counts_and_what_was_not_loaded():
    report = LoadReport("x.pth", "ours", loaded=("a", "b"), missing=("c.weight",), reindexed=("a",))
    text = str(report)
    assert text.startswith("x.pth (ours layout): 2 loaded, 1 missing, 0 unexpected")
    assert "missing: c.weight" in text
    assert "re-indexed: a" in text
    assert not report.complete
    assert LoadReport("x.pth", "ours", loaded=("a",)).complete
