"""The published models' parameter counts, to the last digit."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.engine import load_config
from detr_d2.modeling import DETR, DFINE, RTDETR, Mask2Former

# With the 91 classes of the published heads. DC5 has R50's parameters.
PUBLISHED = {
    "detr_R_50_500ep.yaml": (41_524_768, 41_302_368),
    "detr_R_50_DC5.yaml": (41_524_768, 41_302_368),
    "detr_R_101.yaml": (60_464_672, 60_242_272),
    "dino_R_50_4scale_12ep.yaml": (46_893_182, 46_670_782),
    "dino_R_50_5scale_12ep.yaml": (47_255_806, 47_033_406),
}

# Panoptic, with 133 classes, and frozen norms as buffers: config, options, count. transformers counts 1,536 more with
# Swin-T: the norm of its classifier, which nothing reads.
MASK2FORMER = [
    ("mask2former_R_50.yaml", (), 43_983_878),
    ("mask2former_R_101.yaml", (), 62_923_782),
    ("mask2former_Swin_T.yaml", (), 47_435_264),
]

# S, M*, M, L and X. Of the last three, the stem's convolutions are frozen.
RT_DETR = {"R_18": 20_184_464, "R_34": 31_441_668, "R_50_m": 36_593_772, "R_50": 42_891_372, "R_101": 76_556_268}


@pytest.mark.parametrize(("variant", "count"), RT_DETR.items(), ids=RT_DETR)
def test_parameter_counts_of_rt_detr(repo: Path, variant: str, count: int) -> None:
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / f"rtdetrv2_{variant}.yaml"), ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        model = RTDETR(cfg)
    assert sum(p.numel() for p in model.parameters()) == count


# The backbone's norms of L and X are frozen, and no parameters.
D_FINE = {"N": 3_782_693, "S": 10_321_877, "M": 19_590_064, "L": 31_244_152, "X": 62_621_560}


@pytest.mark.parametrize(("variant", "count"), D_FINE.items(), ids=D_FINE)
def test_parameter_counts_of_d_fine(repo: Path, variant: str, count: int) -> None:
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / f"dfine_{variant}.yaml"), ["MODEL.DEVICE", "cpu"])
    with torch.device("meta"):
        model = DFINE(cfg)
    assert sum(p.numel() for p in model.parameters()) == count


@pytest.mark.parametrize(("config", "options", "count"), MASK2FORMER)
def test_parameter_counts_of_mask2former(repo: Path, config: str, options: tuple[str, ...], count: int) -> None:
    cfg = load_config(str(repo / "configs" / "COCO-PanopticSegmentation" / config), ["MODEL.DEVICE", "cpu", *options])
    with torch.device("meta"):
        model = Mask2Former(cfg)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == count


@pytest.mark.parametrize(("config", "counts"), PUBLISHED.items(), ids=PUBLISHED)
def test_parameter_counts(repo: Path, config: str, counts: tuple[int, int]) -> None:
    model = build(repo, config)
    parameters = list(model.parameters())
    trainable = [p for p in parameters if p.requires_grad]
    assert (sum(p.numel() for p in parameters), sum(p.numel() for p in trainable)) == counts


def build(repo: Path, config: str) -> DETR:
    cfg = load_config(
        str(repo / "configs" / "COCO-Detection" / config), ["MODEL.DEVICE", "cpu", "MODEL.DETR.NUM_CLASSES", "91"]
    )
    return build_model(cfg)
