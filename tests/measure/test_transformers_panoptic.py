"""Panoptic models beside the reference: the same masks and maps, the same work in training."""

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

from detr_d2.measure.inputs import Settings
from detr_d2.measure.references import build_ours, build_reference
from detr_d2.measure.transformers_reference import PanopticTransformersWorkload
from detr_d2.measure.workloads import OurWorkload, compare_outputs

HEAD = ("mask_head.", "bbox_attention.")


@pytest.fixture
def cfg(small_detr_cfg: CfgNode) -> CfgNode:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDETR"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DETR.HIDDEN_DIM, cfg.MODEL.DETR.NHEADS = 64, 8
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 30
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = list(range(40))
    cfg.INPUT.DATASET_MAPPER = "PanopticDatasetMapper"
    return cfg


def build_pair(cfg: CfgNode, **settings: object) -> tuple[OurWorkload, PanopticTransformersWorkload]:
    settings = Settings(**{"config_file": "", "sizes": ((64, 96),), "batch_size": 2, "objects": 3} | settings)
    ours = build_ours(cfg, settings)
    return ours, build_reference(cfg, ours)


def test_same_weights_agree(cfg: CfgNode) -> None:
    agreement = compare_outputs(*build_pair(cfg))
    assert agreement.holds, str(agreement)
    assert agreement.differences["masks"] < 1e-3
    # 17.5% of 2 x 30 queries; of the segments, some are merged, and others too small.
    assert 8 <= sum(agreement.details["queries"]) <= 13
    assert sum(agreement.details["segments"]) > 2


@pytest.mark.parametrize(
    "name",
    [
        "detr.model.backbone.model.encoder.stages.1.layers.0.layer.1.normalization.running_mean",
        "detr.class_labels_classifier.bias",
        "bbox_attention.k_proj.weight",
        "mask_head.conv2.norm.weight",
        "mask_head.fpn_stages.1.fpn_adapter.weight",
        "mask_head.output_conv.weight",
    ],
)
def test_a_lost_tensor_is_seen(cfg: CfgNode, name: str) -> None:
    ours, reference = build_pair(cfg)
    reference.model.state_dict()[name].zero_()
    assert not compare_outputs(ours, reference).holds


def test_the_mask_stage_trains_the_same_with_the_same_losses(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = True
    ours, reference = build_pair(cfg)
    ours.step("train", cfg)
    reference.step("train", cfg)
    assert not reference.model.config.auxiliary_loss
    assert not any(module.training for module in reference.model.detr.modules())
    assert reference.model.mask_head.training
    expected = mask_losses_of(reference)
    torch.testing.assert_close(ours.model(ours.inputs), expected, rtol=1e-3, atol=1e-5)
    sum(expected.values()).backward()
    learning = {name for name, p in reference.model.named_parameters() if p.grad is not None}
    assert learning
    assert all(name.startswith(HEAD) for name in learning)


def mask_losses_of(reference: PanopticTransformersWorkload) -> dict[str, Tensor]:
    batch = reference.batch
    outputs = reference.model(pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask, labels=batch.labels)
    return {name: outputs.loss_dict[name] for name in ("loss_mask", "loss_dice")}


def test_joint_training_has_auxiliary_losses_in_both(cfg: CfgNode) -> None:
    ours, reference = build_pair(cfg)
    ours.step("train", cfg)
    reference.step("train", cfg)
    assert reference.model.config.auxiliary_loss
    assert reference.model.detr.training
    assert reference.loss().isfinite()
    assert ours.loss().isfinite()


def test_images_of_different_sizes_are_refused(cfg: CfgNode) -> None:
    with pytest.raises(ValueError, match="--size"):
        build_pair(cfg, sizes=((64, 96), (48, 80)))


def test_only_the_asked_for_masks_are_computed(cfg: CfgNode) -> None:
    """The published mask AP needs the masks of all queries, the panoptic map those of its segments alone."""
    computed = {}
    for floor in (0.0, cfg.MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD):
        cfg.MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE = floor
        ours, _ = build_pair(cfg, batch_size=1)
        seen = []
        ours.model.mask_head.register_forward_hook(lambda module, args, output, seen=seen: seen.append(len(output)))
        ours.infer()
        computed[floor] = sum(seen)
    assert 3 <= computed[0.85] <= 8 < computed[0.0]
