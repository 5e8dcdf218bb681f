"""The configs of published models, and the optimizers that they give, against ``published_recipes.py``."""

import math
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from detr_d2.engine import load_config
from detr_d2.facts import num_classes_of, value_of
from detr_d2.solver import build_optimizer

from .published_recipes import OURS, PUBLISHED

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
# Narrow models, whose parameters have the names of the published ones.
NARROW = [
    *["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.DETR.HIDDEN_DIM", "64"],
    *["MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.FPN.OUT_CHANNELS", "64", "MODEL.ROI_BOX_HEAD.FC_DIM", "32"],
    *["MODEL.MASK_FORMER.HIDDEN_DIM", "64", "MODEL.SWIN.EMBED_DIM", "48"],
]


def load(name: str, *overrides: str) -> CfgNode:
    return load_config(str(CONFIGS / f"{name}.yaml"), list(overrides))


def test_every_config_for_coco_has_a_recipe():
    paths = [path.relative_to(CONFIGS) for path in CONFIGS.glob("COCO-*/*.yaml") if not path.name.startswith("Base-")]
    assert {str(path.with_suffix("")) for path in paths} == PUBLISHED.keys() | OURS


def same(value: object, published: object) -> bool:
    """Tuples and lists are the same to a config, and a fraction need not be written with all of its digits."""
    if isinstance(published, list):
        return len(value) == len(published) and all(same(a, b) for a, b in zip(value, published, strict=True))
    if isinstance(published, float):
        return math.isclose(value, published, rel_tol=1e-9)
    return value == published and type(value) is type(published)


@pytest.mark.parametrize("name", PUBLISHED)
def test_recipe(name: str):
    cfg = load(name)
    classes, recipe = PUBLISHED[name]
    assert num_classes_of(cfg)[0] == classes
    other = {key: value_of(cfg, key) for key, value in recipe.items() if not same(value_of(cfg, key), value)}
    assert other == {}, {key: recipe[key] for key in other}


def of_detr(name: str) -> tuple[float, float]:
    return (1e-5 if name.startswith("backbone.") else 1e-4), 1e-4


def of_mask_head(name: str) -> tuple[float, float]:
    assert name.startswith(("mask_head.", "bbox_attention."))
    return 1e-4, 1e-4


def of_deformable(name: str) -> tuple[float, float]:
    slow = re.search(r"^backbone\.|\.reference_points\.|\.sampling_offsets\.", name)
    return (2e-5 if slow else 2e-4), 1e-4


def of_mask2former(name: str) -> tuple[float, float]:
    """Norms and embeddings do not decay; the pixel decoder's `level_embed` is a parameter of its own, and does."""
    embedding = re.match(r"transformer\.(query_feat|query_embed|level_embed)\.", name)
    norm = re.search(r"(^|[._])norm\d?\.|relative_position_bias_table$", name)
    return (1e-5 if name.startswith("backbone.") else 1e-4), 0.0 if embedding or norm else 0.05


def of_rt_detr(name: str) -> tuple[float, float]:
    norm = re.search(r"(^|[._])norm\d?\.", name)
    return (1e-5 if name.startswith("backbone.") else 1e-4), 0.0 if norm else 1e-4


def of_fcos(name: str) -> tuple[float, float]:
    return (0.02, 0.0) if name.endswith(".bias") else (0.01, 1e-4)


@pytest.mark.parametrize(
    ("config", "published", "backbone"),
    [
        ("COCO-Detection/detr_R_50_500ep", of_detr, "backbone."),
        ("COCO-PanopticSegmentation/detr_R_50_boxes", of_detr, "backbone."),
        ("COCO-PanopticSegmentation/panoptic_detr_R_50", of_mask_head, ""),
        ("COCO-Detection/deformable_detr_R_50_single_scale", of_deformable, "backbone."),
        ("COCO-Detection/deformable_detr_R_50", of_deformable, "backbone."),
        ("COCO-Detection/deformable_detr_R_50_two_stage", of_deformable, "backbone."),
        ("COCO-PanopticSegmentation/mask2former_R_50", of_mask2former, ""),
        ("COCO-PanopticSegmentation/mask2former_Swin_T", of_mask2former, ""),
        ("COCO-Detection/rtdetrv2_R_50", of_rt_detr, ""),
        ("COCO-Detection/fcos_R_50_1x", of_fcos, "backbone.bottom_up."),
        ("COCO-Detection/fcos_imprv_dcnv2_R_50_1x", of_fcos, "backbone.bottom_up."),
        ("COCO-Detection/faster_rcnn_R_50_FPN_1x", lambda name: (0.02, 1e-4), "backbone.bottom_up."),
        ("COCO-Detection/retinanet_R_50_FPN_1x", lambda name: (0.01, 1e-4), "backbone.bottom_up."),
        ("COCO-PanopticSegmentation/panoptic_fpn_R_50_1x", None, "backbone.bottom_up."),
    ],
)
def test_learning_rate_and_weight_decay_of_every_parameter(
    config: str, published: Callable[[str], tuple[float, float]] | None, backbone: str
):
    """As the optimizer holds them; and which parameters it does not hold."""
    cfg = load(config, *NARROW)
    model = build_model(cfg)
    if published is None:  # the norms of its segmentation head do not decay
        norms = {n for n, m in model.named_modules() if "Norm" in type(m).__name__}
        published = lambda name: (0.02, 0.0 if name.rpartition(".")[0] in norms else 1e-4)  # noqa: E731
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optimizer(cfg, model).param_groups
    actual = {names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert actual == {name: pytest.approx(published(name)) for name in actual}
    if backbone:
        parts = {name.removeprefix(backbone).split(".")[0] for name in actual if name.startswith(backbone)}
        assert parts >= {"res3", "res4", "res5"}
        left_out = {name for name in names.values() if name not in actual}
        assert left_out == {name for name in names.values() if re.match(rf"{re.escape(backbone)}(stem|res2)\.", name)}
        assert left_out
