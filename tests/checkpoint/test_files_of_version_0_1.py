"""Configs and checkpoints that version 0.1 wrote still load, and give what they gave."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import load_config, load_trained_model
from detr_d2.facts import box_model_of
from detr_d2.modeling import PanopticDETR

FILES = Path(__file__).resolve().parents[1] / "files" / "version_0_1"
# Each with its box model, which had a panoptic class of its own.
NAMES = {"panoptic_detr_R_18": "DETR", "panoptic_deformable_detr_R_18": "DeformableDETR"}


def load(name: str, *opts: str) -> CfgNode:
    return load_config(str(FILES / f"{name}.yaml"), ["MODEL.WEIGHTS", str(FILES / f"{name}.pth"), *opts])


def results_of(model: PanopticDETR) -> dict[str, Tensor]:
    image = (torch.arange(3 * 70 * 90) * 37 % 256).view(3, 70, 90).to(torch.uint8)
    # With gradients norms are not folded, as they were not then: masks of these weights nearly tie, and hundreds of
    # pixels follow the last digit.
    with torch.enable_grad():
        (result,) = model([{"image": image}])
    instances, (_, segments) = result["instances"], result["panoptic_seg"]
    return {
        "boxes": instances.pred_boxes.tensor.detach(),
        "scores": instances.scores.detach(),
        "classes": instances.pred_classes,
        "areas": instances.pred_masks.sum((1, 2)),
        "segments": torch.tensor([(segment["category_id"], segment["area"]) for segment in segments]),
    }


@pytest.mark.parametrize("name", NAMES)
def test_results_are_those_of_version_0_1(name: str) -> None:
    cfg = load(name)
    model = load_trained_model(cfg)
    assert isinstance(model, PanopticDETR)
    assert type(model.detr).__name__ == box_model_of(cfg) == NAMES[name]
    expected = torch.load(FILES / f"{name}_results.pt", weights_only=True)
    assert len(expected["scores"]) > 0
    assert len(expected["segments"]) > 3
    for key, value in results_of(model).items():
        if key in ("areas", "segments"):  # a pixel on a border may fall to the other side
            torch.testing.assert_close(value, expected[key], rtol=0.01, atol=2)
        else:
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_today_takes_the_same_weights(name: str) -> None:
    """Configs of today choose the box model by a key, and checkpoints of today have its names after ``detr.``."""
    old = load_trained_model(load(name))
    new = load_trained_model(
        load(name, "MODEL.META_ARCHITECTURE", "PanopticDETR", "MODEL.PANOPTIC_DETR.BOX_MODEL", NAMES[name])
    )
    assert type(new) is PanopticDETR
    assert all(
        key.split(".")[0] in ("detr", "mask_head", "bbox_attention", "dense_class_embed") for key in new.state_dict()
    )
    torch.testing.assert_close(dict(new.state_dict()), dict(old.state_dict()))


def test_training_goes_on_from_an_old_file(tmp_path: Path) -> None:
    """Every trained tensor is found; the report says that nothing is missing."""
    for name in NAMES:
        model = load_trained_model(load(name))
        checkpointer = DetrCheckpointer(model, str(tmp_path))
        checkpointer.load(str(FILES / f"{name}.pth"))
        assert checkpointer.last_report.complete
        checkpointer.save(name)
        checkpointer.load(str(tmp_path / f"{name}.pth"))
        assert checkpointer.last_report.complete
