"""RT-DETRv2 and D-FINE beside the reference, with the same weights."""

import pytest
from detectron2.config import CfgNode

from detr_d2.engine import load_config
from detr_d2.measure.inputs import Settings
from detr_d2.measure.references import build_workloads, check_reference
from detr_d2.measure.workloads import compare_outputs

SETTINGS = Settings(config_file="", sizes=((96, 128),), batch_size=2, objects=3, reference="transformers")


@pytest.fixture(params=["rtdetr_R_18", "dfine_N"])
def cfg(repo, request) -> CfgNode:
    cfg = load_config(str(repo / "configs" / "Shapes" / f"{request.param}.yaml"), ["MODEL.DEVICE", "cpu"])
    cfg.MODEL.DETR.NUM_CLASSES = 20
    return cfg


def test_same_weights_agree_and_both_learn(cfg):
    workloads = build_workloads(cfg, SETTINGS)
    agreement = compare_outputs(workloads["ours"], workloads["transformers"])
    assert agreement.holds, str(agreement)
    assert agreement.details["detections"] > 100  # of 2 x 100
    assert agreement.details["classes_seen"] > 10
    for workload in workloads.values():
        step = workload.training_step(cfg, workload.build_optimizer(cfg))
        step()


def test_what_it_has_not_is_named(cfg):
    cfg.MODEL.RTDETR.ACTIVATION = "silu"
    with pytest.raises(ValueError, match=r"relu for MODEL\.RTDETR\.ACTIVATION, not silu"):
        check_reference(cfg, "transformers")
