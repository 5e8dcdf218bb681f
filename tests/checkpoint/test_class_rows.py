"""Class rows by COCO category id and contiguous."""

import pytest
import torch

from detr_d2.checkpoint.class_rows import ROW_TABLES, UNUSED_LOGIT, head_rows, to_category_ids, to_contiguous


def head(rows: int) -> dict[str, torch.Tensor]:
    index = torch.arange(rows, dtype=torch.float32)
    return {"class_embed.weight": index[:, None].repeat(1, 4), "class_embed.bias": index, "other.weight": index}


def test_boxes():
    state = to_contiguous(head(92))
    unused = {0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert state["class_embed.bias"].tolist() == [i for i in range(92) if i not in unused]
    assert torch.equal(state["class_embed.weight"][:, 0], state["class_embed.bias"])
    assert state["other.weight"].shape == (92,)


def test_panoptic():
    bias = to_contiguous(head(251))["class_embed.bias"].tolist()
    assert len(bias) == 134
    assert bias == sorted(bias)
    assert bias[:80] == to_contiguous(head(92))["class_embed.bias"].tolist()[:80]
    assert bias[80] == 92
    assert bias[-2:] == [200, 250]


@pytest.mark.parametrize("table", ROW_TABLES, ids=lambda table: str(table.rows))
def test_round_trip(table):
    contiguous = head(len(table.used))
    by_id = to_category_ids(contiguous)
    assert head_rows(by_id) == table.rows
    assert all(torch.equal(to_contiguous(by_id)[key], contiguous[key]) for key in contiguous)


def test_unused_rows_never_win():
    contiguous = {"class_embed.weight": torch.randn(81, 4) * 10, "class_embed.bias": torch.randn(81)}
    by_id = to_category_ids(contiguous)
    x = torch.randn(50, 4) * 10

    def probabilities(state):
        return (x @ state["class_embed.weight"].T + state["class_embed.bias"]).softmax(-1)

    assert torch.equal(
        to_contiguous({"class_embed.bias": probabilities(by_id).T})["class_embed.bias"].T.sum(-1).round(),
        torch.ones(50),
    )
    used = list(ROW_TABLES[0].used)
    assert torch.allclose(probabilities(by_id)[:, used], probabilities(contiguous))
    assert torch.isfinite(torch.tensor(UNUSED_LOGIT).half())


@pytest.mark.parametrize("rows", [21, 81, 91])
def test_other_heads_stay(rows):
    assert to_contiguous(head(rows)).keys() == head(rows).keys()
    assert torch.equal(to_contiguous(head(rows))["class_embed.bias"], head(rows)["class_embed.bias"])


def test_category_ids_need_cocos_classes():
    with pytest.raises(ValueError, match=r"has 21 rows, COCO's have 81 or 134"):
        to_category_ids(head(21))
    assert torch.equal(to_category_ids(head(92))["class_embed.bias"], head(92)["class_embed.bias"])
