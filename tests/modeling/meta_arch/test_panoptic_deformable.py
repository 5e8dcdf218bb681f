"""The mask stage on Deformable DETR; what the stage does with its inputs is tested with PanopticDETR."""

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.modeling import DeformableDETR, PanopticDeformableDETR, PanopticDETR

CLASSES, THINGS = 6, [0, 1, 4]
SIZES = [(65, 90), (48, 101)]
OVERRIDES = {
    "MODEL.META_ARCHITECTURE": "PanopticDETR",
    "MODEL.PANOPTIC_DETR.BOX_MODEL": "DeformableDETR",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.DETR.NUM_CLASSES": CLASSES,
    "MODEL.DETR.DROPOUT": 0.0,
    "MODEL.PANOPTIC_DETR.THING_CLASSES": THINGS,
    "MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD": 0.5,
}


@pytest.fixture
def cfg(small_deformable_cfg) -> CfgNode:
    return small_deformable_cfg("_two_stage", *(word for pair in OVERRIDES.items() for word in pair))


@torch.no_grad()
def build(cfg: CfgNode) -> PanopticDETR:
    """With class heads that are sure of some queries."""
    torch.manual_seed(0)
    model = build_model(cfg)
    for head in model.detr.class_embed:
        torch.nn.init.normal_(head.weight, std=0.5)
        torch.nn.init.zeros_(head.bias)
    return model


def make_inputs(counts: tuple[int, ...] = ()) -> list[dict]:
    generator = torch.Generator().manual_seed(1)
    inputs = [{"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)} for size in SIZES]
    for item, (height, width), count in zip(inputs, SIZES, counts, strict=bool(counts)):
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        for i in range(count):
            masks[i, 3 * i : 3 * i + 20, 5 * i : 5 * i + 30] = True
        instances = Instances((height, width), gt_masks=BitMasks(masks))
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.randint(0, CLASSES, (count,), generator=generator)
        item["instances"] = instances
    return inputs


@pytest.mark.parametrize("counts", [(3, 1), (0, 0)], ids=str)
def test_joint_training_reaches_every_parameter(cfg: CfgNode, counts: tuple[int, int]) -> None:
    model = build(cfg)
    losses = model(make_inputs(counts))
    assert {"loss_mask", "loss_dice", "loss_ce", "loss_ce_0", "loss_bbox_enc"} <= set(losses)
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


def test_frozen_box_model_leaves_the_masks_alone(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = True
    model = build(cfg)
    losses = model(make_inputs((3, 1)))
    assert set(losses) == {"loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == {"mask_head", "bbox_attention"}


def test_results(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    inputs[0] |= {"height": 130, "width": 45}
    with torch.no_grad():
        results = model(inputs)
        logits = model.detect(model.preprocess(inputs)).predictions.pred_logits
    for result, image_logits, size in zip(results, logits, [(130, 45), SIZES[1]], strict=True):
        instances, (panoptic, segments) = result["instances"], result["panoptic_seg"]
        scores, classes = image_logits.sigmoid().max(-1)
        things = torch.isin(classes, torch.tensor(THINGS))
        assert instances.pred_masks.shape == (len(instances), *size)
        assert set(instances.scores.tolist()) <= set(scores[things].tolist())
        assert panoptic.shape == size
        assert len(segments) <= int((scores > 0.5).sum())
        assert {segment["category_id"] for segment in segments} <= set(classes[scores > 0.5].tolist())
    assert any(result["panoptic_seg"][1] for result in results)


@pytest.mark.parametrize(("name", "level"), [("", 2), ("res5", 2), ("res4", 1), ("res3", 0)])
def test_mask_head_starts_from_the_level_of_one_backbone_feature(cfg: CfgNode, name: str, level: int) -> None:
    cfg.MODEL.PANOPTIC_DETR.IN_FEATURE = name
    cfg.MODEL.PANOPTIC_DETR.MASK_FEATURES = ["res2"]
    model = build(cfg).eval()
    images = model.preprocess(make_inputs())
    detection = model.detect(images)
    inputs = model.mask_inputs(detection)
    assert model.backbone.output_shape()[model.in_feature].stride == (8, 16, 32)[level]
    projected, mask = model.detr.input_proj[level](detection.features[f"res{level + 3}"], images)
    torch.testing.assert_close(inputs.projected, projected)
    assert torch.equal(inputs.padding_mask, mask)
    before = sum(height * width for height, width in detection.levels.spatial_shapes[:level])
    torch.testing.assert_close(inputs.memory, detection.hidden.memory[:, before : before + mask[0].numel()])


def test_unknown_mask_in_feature(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.IN_FEATURE = "res2"
    with pytest.raises(
        ValueError, match=r"MODEL\.PANOPTIC_DETR\.IN_FEATURE is 'res2', expected one of .*\['res3', 'res4'"
    ):
        build_model(cfg)


def test_the_name_of_older_configs(cfg: CfgNode) -> None:
    """It is a panoptic DETR on a Deformable DETR, whatever the key says, which older configs lack."""
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.PANOPTIC_DETR.BOX_MODEL = "PanopticDeformableDETR", "DETR"
    model = build(cfg)
    assert isinstance(model, PanopticDeformableDETR)
    assert isinstance(model.detr, DeformableDETR)


@pytest.mark.parametrize("name", ["FCOS", "PanopticDETR", "DETTR"])
def test_a_box_model_must_be_a_set_predictor_of_boxes(cfg: CfgNode, name: str) -> None:
    cfg.MODEL.PANOPTIC_DETR.BOX_MODEL = name
    with pytest.raises(
        ValueError, match=rf"BOX_MODEL is '{name}', expected one of DETR, DFINE, DINO, DeformableDETR, RTDETR"
    ):
        build_model(cfg)


def test_starts_from_box_weights(cfg: CfgNode, tmp_path) -> None:
    model = build(cfg)
    box_cfg = cfg.clone()
    box_cfg.MODEL.META_ARCHITECTURE = "DeformableDETR"
    torch.save({"model": build_model(box_cfg).state_dict()}, tmp_path / "boxes.pth")
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "boxes.pth"))
    assert {name.split(".")[0] for name in checkpointer.last_report.missing} == {"mask_head", "bbox_attention"}
