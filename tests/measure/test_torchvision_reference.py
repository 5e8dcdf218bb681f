"""torchvision's FCOS as a reference: all of our weights, the same ones trained, the same outputs; what it cannot be."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.utils.events import EventStorage

from detr_d2.checkpoint.layouts.fcos import TORCHVISION_NAMES
from detr_d2.measure.inputs import Settings
from detr_d2.measure.references import build_workloads, check_reference
from detr_d2.measure.workloads import compare_outputs

SMALL = ("MODEL.DEVICE", "cpu", "MODEL.RESNETS.DEPTH", "18", "MODEL.RESNETS.RES2_OUT_CHANNELS", "64")


@pytest.fixture
def settings(repo) -> Settings:
    path = repo / "configs" / "COCO-Detection" / "fcos_torchvision_R_50.yaml"
    return Settings(str(path), (*SMALL, "MODEL.FCOS.NUM_CLASSES", "7"), ((96, 128),), reference="torchvision")


def changed(cfg: CfgNode, opts: list) -> CfgNode:
    cfg = cfg.clone()
    cfg.defrost()
    cfg.merge_from_list(opts)
    return cfg


def test_the_same_weights_give_the_same_outputs(settings: Settings) -> None:
    workloads = build_workloads(settings.load(), settings)
    ours, reference = workloads["ours"], workloads["torchvision"]
    agreement = compare_outputs(ours, reference)
    assert agreement.holds, agreement
    assert min(agreement.details["detections"]) > 0
    assert "logits differ by at most" in agreement.report()["summary"]
    with torch.no_grad():
        ours.model.head.cls_logits.bias[0] += 0.1
    assert not compare_outputs(ours, reference).holds


def test_both_train_the_same_parameters(settings: Settings) -> None:
    cfg = settings.load()
    workloads = build_workloads(cfg, settings)
    ours, theirs = workloads["ours"].model, workloads["torchvision"].model
    trained = {n: p for n, p in ours.named_parameters() if p.requires_grad and ".scales." not in n}
    assert set(TORCHVISION_NAMES.to_theirs(trained)) == {n for n, p in theirs.named_parameters() if p.requires_grad}
    with EventStorage():
        for workload in workloads.values():
            workload.step("train", cfg)()
            assert all(p.grad is not None for p in workload.model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("opts", "key"),
    [
        (["MODEL.META_ARCHITECTURE", "DETR"], "MODEL.META_ARCHITECTURE"),
        (["MODEL.FCOS.LOCATION_OFFSET", 0.5], "MODEL.FCOS.LOCATION_OFFSET"),
        (["MODEL.RESNETS.DEPTH", 50], "MODEL.RESNETS.RES2_OUT_CHANNELS"),
        (["MODEL.FCOS.DEFORM_IN_TOWER", True], "MODEL.FCOS.DEFORM_IN_TOWER"),
    ],
)
def test_refuses_other_models(settings: Settings, opts: list, key: str) -> None:
    cfg = settings.load()
    check_reference(cfg, "torchvision")
    with pytest.raises(ValueError, match=rf"{key}.*--reference none"):
        check_reference(changed(cfg, opts), "torchvision")


def test_learned_scales_are_refused(settings: Settings, tmp_path) -> None:
    state = build_workloads(settings.load(), settings)["ours"].model.state_dict()
    state["head.scales.0.scale"] += 0.5
    torch.save(state, tmp_path / "learned.pth")
    learned = Settings(
        settings.config_file,
        (*settings.opts, "MODEL.WEIGHTS", str(tmp_path / "learned.pth")),
        settings.sizes,
        reference="torchvision",
    )
    with pytest.raises(ValueError, match="has no scales"):
        build_workloads(learned.load(), learned)
