"""Deformable DETR beside the reference: all variants compute the same, and do the same work in training."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detr_d2.measure.inputs import Settings
from detr_d2.measure.random_weights import separate_classes
from detr_d2.measure.references import build_ours, build_reference, check_reference
from detr_d2.measure.transformers_model import build_transformers, names_in_reference, optimizer_view
from detr_d2.measure.transformers_reference import DeformableTransformersWorkload
from detr_d2.measure.workloads import OurWorkload, compare_outputs
from detr_d2.solver import build_optimizer

PUBLISHED_WIDTHS = [
    *["MODEL.RESNETS.STEM_OUT_CHANNELS", 64, "MODEL.RESNETS.RES2_OUT_CHANNELS", 256],
    *["MODEL.RESNETS.WIDTH_PER_GROUP", 64],
]
VARIANTS = {
    "single_scale": ("_single_scale", []),
    "single_scale_DC5": ("_single_scale_DC5", PUBLISHED_WIDTHS),
    "multi_scale": ("", []),
    "refine": ("_refine", []),
    "two_stage": ("_two_stage", []),
    "learned": ("", ["MODEL.DETR.POSITION_EMBEDDING", "learned"]),
    "basic blocks, two levels": (
        "",
        [
            *["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.OUT_FEATURES", "['res3','res4']"],
            *["MODEL.DEFORMABLE_DETR.IN_FEATURES", "['res3','res4']", "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 2],
        ],
    ),
}
SETTINGS = Settings(config_file="", sizes=((96, 128),), batch_size=2, objects=3)


@pytest.fixture(params=VARIANTS.values(), ids=VARIANTS)
def cfg(small_deformable_cfg, request: pytest.FixtureRequest) -> CfgNode:
    variant, overrides = request.param
    return small_deformable_cfg(variant, *overrides)


def build_pair(cfg: CfgNode, settings: Settings = SETTINGS) -> tuple[OurWorkload, DeformableTransformersWorkload]:
    ours = build_ours(cfg, settings)
    separate_classes(ours)
    return ours, build_reference(cfg, ours)


def test_same_weights_agree(cfg: CfgNode) -> None:
    agreement = compare_outputs(*build_pair(cfg))
    assert agreement.holds, str(agreement)
    assert agreement.details["detections"] > 150  # of 2 x 100, boxes outside of the image are dropped
    assert agreement.details["classes_seen"] > 20
    assert agreement.differences["logits"] < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "model.backbone.model.encoder.stages.1.layers.0.layer.1.normalization.running_mean",
        "model.input_proj.3.1.weight",
        "model.level_embed",
        "model.encoder.layers.1.self_attn.sampling_offsets.weight",
        "model.decoder.layers.2.encoder_attn.attention_weights.weight",
        "model.decoder.layers.0.self_attn.k_proj.weight",
        "class_embed.2.bias",
        "bbox_embed.1.layers.2.weight",
        "class_embed.3.weight",
    ],
)
def test_a_lost_tensor_is_seen(small_deformable_cfg, name: str) -> None:
    ours, reference = build_pair(small_deformable_cfg("_two_stage"))
    reference.model.state_dict()[name].zero_()
    assert not compare_outputs(ours, reference).holds


def test_every_tensor_is_mapped_and_used(cfg: CfgNode) -> None:
    ours = build_model(cfg)
    with torch.no_grad():
        for tensor in ours.state_dict().values():
            tensor.normal_()
    reference = build_transformers(cfg, ours)
    theirs = reference.state_dict()
    names = {name: names_in_reference(cfg, name) for name in ours.state_dict()}
    seconds = {name for name in theirs if name.startswith(("model.decoder.class_embed.", "model.decoder.bbox_embed."))}
    assert {x for found in names.values() for x in found} == theirs.keys() - seconds
    for name, found in names.items():
        torch.testing.assert_close(torch.cat([theirs[x] for x in found]), ours.state_dict()[name], rtol=0, atol=0)
    # The decoder refines with the heads themselves, as ours does.
    assert all(theirs[name].data_ptr() == theirs[name.removeprefix("model.decoder.")].data_ptr() for name in seconds)
    assert bool(seconds) == cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE
    assert sum(p.numel() for p in reference.parameters()) == sum(p.numel() for p in ours.parameters())
    assert groups(cfg, optimizer_view(reference)) == groups(cfg, ours)


def groups(cfg: CfgNode, model: torch.nn.Module) -> dict[float, int]:
    """Trained numbers by learning rate."""
    result = {}
    for group in build_optimizer(cfg, model).param_groups:
        result[group["lr"]] = result.get(group["lr"], 0) + sum(p.numel() for p in group["params"])
    assert len(result) == 2  # the backbone has that of offsets and reference points
    return result


def test_losses_agree(cfg: CfgNode) -> None:
    """Those of every layer and of proposals; the weight of classes, which the reference has as a constant, aside."""
    cfg.MODEL.DETR.CLASS_WEIGHT, cfg.MODEL.DETR.DROPOUT = 1.0, 0.0
    ours, reference = build_pair(cfg)
    ours.step("train", cfg)
    reference.step("train", cfg)
    torch.testing.assert_close(ours.loss(), reference.loss().reshape(()), rtol=1e-4, atol=0)


def test_training_steps_are_whole(small_deformable_cfg) -> None:
    cfg = small_deformable_cfg("_two_stage")
    for workload in build_pair(cfg):
        optimizer = workload.build_optimizer(cfg)
        step = workload.training_step(cfg, optimizer)
        with EventStorage():
            step()
        trained = {name: p for name, p in workload.model.named_parameters() if p.requires_grad}
        assert optimizer.state.keys() == set(trained.values())
        assert all(p.grad is not None for p in trained.values())


def test_images_of_several_sizes_are_refused(small_deformable_cfg) -> None:
    settings = Settings(config_file="", sizes=((96, 128), (64, 128)), batch_size=2, objects=3)
    with pytest.raises(ValueError, match="give one --size"):
        build_pair(small_deformable_cfg(), settings)


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (["MODEL.META_ARCHITECTURE", "PanopticDeformableDETR"], "MODEL.META_ARCHITECTURE"),
        (["MODEL.DETR.POSITION_TEMPERATURE", 20.0], "MODEL.DETR.POSITION_TEMPERATURE"),
        (["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0], "MODEL.RESNETS.NORM"),
        (["MODEL.DEFORMABLE_DETR.QUERY_SELECTION", "Other"], "MODEL.DEFORMABLE_DETR.QUERY_SELECTION"),
        (["MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 1], "MODEL.DEFORMABLE_DETR.IN_FEATURES"),
        (["MODEL.RESNETS.RES5_DILATION", 2], "MODEL.RESNETS.RES5_DILATION"),
    ],
)
def test_refuses_other_models(small_deformable_cfg, opts: list, key: str) -> None:
    check_reference(small_deformable_cfg(), "transformers")
    with pytest.raises(ValueError, match=rf"{key}.*--reference none"):
        check_reference(small_deformable_cfg("", *opts), "transformers")
