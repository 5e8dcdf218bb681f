"""Both implementations compute the same, are seen to differ when they do not, and do the same work in training."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from detr_d2.measure.inputs import Settings, make_inputs
from detr_d2.measure.random_weights import randomize_frozen_norms, separate_queries
from detr_d2.measure.transformers_reference import TransformersWorkload, to_reference
from detr_d2.measure.workloads import OurWorkload, compare_outputs

Pair = tuple[OurWorkload, TransformersWorkload]
# One image is smaller than the other in both directions, so that padding is at work.
SETTINGS = Settings(config_file="", sizes=((64, 96), (48, 80)), batch_size=2, objects=3)


def build_pair(cfg: CfgNode) -> Pair:
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    randomize_frozen_norms(model, seed=0)
    ours = OurWorkload(model, make_inputs(cfg, SETTINGS))
    separate_queries(ours)
    return ours, TransformersWorkload(cfg, model, ours.inputs)


@pytest.fixture
def pair(small_detr_cfg: CfgNode) -> Pair:
    return build_pair(small_detr_cfg)


def test_same_weights_agree(pair: Pair) -> None:
    agreement = compare_outputs(*pair)
    assert agreement.holds, str(agreement)
    assert agreement.details["detections"] == 2 * 12
    assert agreement.details["classes_seen"] > 5
    assert agreement.differences["logits"] < 1e-4


@pytest.mark.parametrize(
    "name",
    [
        "model.backbone.model.encoder.stages.0.layers.0.layer.1.normalization.running_mean",
        "model.backbone.model.encoder.stages.3.layers.2.layer.2.normalization.bias",
        "model.input_projection.bias",
        "model.decoder.layers.2.encoder_attn.v_proj.weight",
        "class_labels_classifier.bias",
        "bbox_predictor.layers.0.weight",
    ],
)
def test_a_lost_tensor_is_seen(pair: Pair, name: str) -> None:
    ours, reference = pair
    reference.model.state_dict()[name].zero_()
    assert not compare_outputs(ours, reference).holds


def test_nan_is_not_agreement(pair: Pair) -> None:
    ours, reference = pair
    reference.model.class_labels_classifier.bias.data[3] = torch.nan
    assert not compare_outputs(ours, reference).holds


def test_other_classes_are_seen(pair: Pair) -> None:
    ours, reference = pair
    # Two classes swap places: raw boxes and the greatest score stay.
    for parameter in (reference.model.class_labels_classifier.weight, reference.model.class_labels_classifier.bias):
        parameter.data = parameter.data.roll(1, 0)
    agreement = compare_outputs(ours, reference)
    assert not agreement.holds
    assert agreement.differences["other_class"] > 0
    assert agreement.differences["boxes"] < 1e-4


@pytest.mark.parametrize("deep_supervision", [True, False])
def test_the_reference_computes_as_many_losses(small_detr_cfg: CfgNode, deep_supervision: bool) -> None:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.DEEP_SUPERVISION = deep_supervision
    ours, reference = build_pair(cfg)
    ours.step("train", cfg)
    reference.step("train", cfg)
    batch = reference.batch
    theirs = reference.model(pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask, labels=batch.labels)
    own = ours.model(ours.inputs)
    assert len(own) == 3 * (3 if deep_supervision else 1)
    assert {name.split("_")[1] for name in own} == {"ce", "bbox", "giou"}
    assert sum("loss_" in name for name in theirs.loss_dict) == len(own)
    reference.step("inference", cfg)
    assert not reference.model.config.auxiliary_loss


def test_losses_agree_without_auxiliary_ones(small_detr_cfg: CfgNode) -> None:
    """So both are given the same objects, and the training step minimises the same sum."""
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.DEEP_SUPERVISION = False
    cfg.MODEL.DETR.DROPOUT = 0.0
    ours, reference = build_pair(cfg)
    ours.step("train", cfg)
    reference.step("train", cfg)
    torch.testing.assert_close(ours.loss(), reference.loss().reshape(()), rtol=1e-3, atol=0)


@pytest.mark.parametrize("amp", [False, True], ids=["fp32", "bf16"])
def test_training_steps_are_whole_and_leave_the_weights(small_detr_cfg: CfgNode, amp: bool) -> None:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = amp
    cfg.SOLVER.AMP.PRECISION = "bfloat16"
    for workload in build_pair(cfg):
        optimizer = workload.build_optimizer(cfg)
        step = workload.training_step(cfg, optimizer)
        before = {name: p.detach().clone() for name, p in workload.model.named_parameters()}
        with EventStorage():
            step()
        trained = {name: p for name, p in workload.model.named_parameters() if p.requires_grad}
        assert optimizer.state.keys() == set(trained.values())
        gradients = {name: p.grad for name, p in workload.model.named_parameters() if p.grad is not None}
        assert gradients.keys() == trained.keys()
        norm = torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients.values()]))
        assert norm.item() == pytest.approx(0.1, rel=1e-2)  # clipped to SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        assert all(torch.equal(p, before[name]) for name, p in workload.model.named_parameters())


def test_the_reference_reads_the_same_batch(small_detr_cfg: CfgNode) -> None:
    inputs = make_inputs(small_detr_cfg, Settings(config_file="", sizes=((40, 60), (50, 30)), batch_size=2))
    model = build_model(small_detr_cfg)
    images = model.preprocess(inputs)
    targets = model.prepare_targets(inputs, images)
    batch = to_reference(small_detr_cfg, inputs)
    torch.testing.assert_close(batch.pixel_values, images.tensor, rtol=0, atol=0)
    assert torch.equal(batch.pixel_mask == 0, images.mask)
    for i, labels in enumerate(batch.labels):
        assert torch.equal(labels["class_labels"], targets.labels[i])
        torch.testing.assert_close(labels["boxes"], targets.boxes[i])
