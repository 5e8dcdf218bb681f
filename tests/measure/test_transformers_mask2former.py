"""Mask2Former beside the reference: equal logits, and the same parameters trained."""

import pytest
import torch

from detr_d2.measure.inputs import Settings
from detr_d2.measure.references import build_ours, build_reference, check_reference
from detr_d2.measure.workloads import compare_outputs

from ..parity.mask2former.oracle import small_config

# Whose segments the batch's masks are.
SEGMENTS = ["INPUT.DATASET_MAPPER", "PanopticDatasetMapper"]


def test_same_weights_agree_and_the_same_is_trained() -> None:
    cfg = small_config("resnet", *SEGMENTS)
    ours = build_ours(cfg, Settings(config_file="", sizes=((60, 90),), batch_size=2, objects=3))
    reference = build_reference(cfg, ours)
    agreement = compare_outputs(ours, reference)
    assert agreement.holds, str(agreement)
    assert len(reference.infer()) == 2
    ours.model.train()
    reference.training_step(cfg, reference.build_optimizer(cfg))()
    trained = [p.numel() for p in reference.model.parameters() if p.grad is not None]
    assert sum(trained) == sum(p.numel() for p in ours.model.parameters() if p.requires_grad)
    assert torch.isfinite(reference.loss())


def test_what_it_cannot_be_measured_beside_is_said() -> None:
    check_reference(small_config("resnet"), "transformers")
    with pytest.raises(ValueError, match=r"--reference transformers has DETR, panoptic DETR.*panoptic Mask2Former"):
        check_reference(small_config("resnet", "MODEL.MASK_FORMER.TEST.PANOPTIC_ON", False), "transformers")
    cfg = small_config("resnet", *SEGMENTS)
    ours = build_ours(cfg, Settings(config_file="", sizes=((60, 90), (64, 64)), batch_size=2, objects=3))
    with pytest.raises(ValueError, match="lets padding into Mask2Former"):
        build_reference(cfg, ours)
