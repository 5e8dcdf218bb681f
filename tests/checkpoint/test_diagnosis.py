"""Which meta-architecture weights are taken for: by what registered models say of their tensors, never by name."""

from dataclasses import replace

import pytest
from detectron2.modeling import META_ARCH_REGISTRY

from detr_d2.checkpoint.diagnosis import check_family
from detr_d2.facts import ModelFacts
from detr_d2.modeling import DETR

DETR_NAMES = ["transformer.decoder.layers.0.linear1.weight", "query_embed.weight", "class_embed.weight"]
DEFORMABLE_NAMES = [
    *("transformer.decoder.layers.0.linear1.weight", "transformer.decoder.layers.0.cross_attn.sampling_offsets.bias"),
    *("transformer.level_embed", "transformer.query_selection.query_embed.weight", "class_embed.0.weight"),
]
MASK_NAMES = ["mask_head.lay1.weight", "mask_head.out_lay.weight", "bbox_attention.q_linear.weight"]
RCNN_NAMES = ["backbone.fpn_lateral2.weight", "roi_heads.box_head.fc1.weight"]


@pytest.fixture
def register():
    """``register(class)``, undone after the test."""
    before = dict(META_ARCH_REGISTRY)
    yield META_ARCH_REGISTRY.register
    for name in dict(META_ARCH_REGISTRY).keys() - before.keys():
        del META_ARCH_REGISTRY._obj_map[name]


@pytest.mark.parametrize(
    ("checkpoint", "model", "name"),
    [
        (DETR_NAMES, DEFORMABLE_NAMES, "DETR"),
        (DEFORMABLE_NAMES, DETR_NAMES, "DeformableDETR"),
        (DETR_NAMES, RCNN_NAMES, "DETR"),
        (RCNN_NAMES, DETR_NAMES, "GeneralizedRCNN"),
        (RCNN_NAMES, DETR_NAMES + MASK_NAMES, "GeneralizedRCNN"),
        (DETR_NAMES + MASK_NAMES, DETR_NAMES, "PanopticDETR"),
        ([*RCNN_NAMES, "sem_seg_head.p2.weight"], RCNN_NAMES, "PanopticFPN"),
        (DETR_NAMES, ["backbone.conv.weight"], "DETR"),
    ],
)
def test_another_meta_architecture(checkpoint, model, name):
    advice = check_family(checkpoint, model, "MyModel")
    assert advice.startswith(f"the weights are of a {name}, the model is a MyModel; set ")
    assert name in META_ARCH_REGISTRY


@pytest.mark.parametrize(
    ("checkpoint", "model"),
    [
        (DETR_NAMES, DETR_NAMES),
        (DEFORMABLE_NAMES, DEFORMABLE_NAMES),
        (DETR_NAMES, DETR_NAMES + MASK_NAMES),
        (DEFORMABLE_NAMES, DEFORMABLE_NAMES + MASK_NAMES),
        (RCNN_NAMES, [*RCNN_NAMES, "sem_seg_head.p2.weight"]),
        (["backbone.conv.weight"], DETR_NAMES),
        ([], []),
    ],
)
def test_no_reason_to_change_it(checkpoint, model):
    assert check_family(checkpoint, model, "MyModel") is None


def test_a_renamed_subclass_is_what_it_derives_from(register):
    @register()
    class MyDETR(DETR):
        pass

    assert check_family(DETR_NAMES, DETR_NAMES, "MyDETR") is None
    assert "; set MODEL.META_ARCHITECTURE DETR" in check_family(DETR_NAMES, RCNN_NAMES, "MyDETR")


def test_an_extended_subclass_may_start_from_what_it_derives_from(register):
    @register()
    class MyDETR(DETR):
        facts = replace(DETR.facts, weights=(*DETR.facts.weights, r"^my_head\."))

    mine = [*DETR_NAMES, "my_head.weight"]
    assert check_family(DETR_NAMES, mine, "MyDETR") is None
    assert "set MODEL.META_ARCHITECTURE MyDETR" in check_family(mine, DETR_NAMES, "DETR")


def test_a_model_of_ones_own(register):
    @register()
    class Other:
        facts = ModelFacts(weights=(r"^other\.",))

    assert "set MODEL.META_ARCHITECTURE Other" in check_family(["other.weight"], DETR_NAMES, "DETR")


def test_the_box_model_of_a_panoptic_one():
    key = "MODEL.PANOPTIC_DETR.BOX_MODEL"
    advice = check_family(DEFORMABLE_NAMES + MASK_NAMES, DETR_NAMES, "DETR")
    assert advice.endswith(f"set MODEL.META_ARCHITECTURE PanopticDETR and {key} DeformableDETR")
    advice = check_family(DETR_NAMES, DEFORMABLE_NAMES + MASK_NAMES, "PanopticDETR")
    assert advice.endswith(f"the weights are of a DETR, the model is a PanopticDETR; set {key} DETR")
