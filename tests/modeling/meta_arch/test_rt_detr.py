"""RT-DETR: padding, images without objects, 16 bits, and what configs may not say."""

from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from detr_d2.engine import load_config
from detr_d2.modeling import RTDETR

SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.NORM", "BN"],
    *["MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4"],
    *["MODEL.DETR.DIM_FEEDFORWARD", "32", "MODEL.RTDETR.ENC_DIM", "32", "MODEL.RTDETR.ENC_DIM_FEEDFORWARD", "32"],
    *["MODEL.DETR.NUM_CLASSES", "5", "MODEL.DETR.NUM_OBJECT_QUERIES", "12", "MODEL.RTDETR.NORM", "BN"],
]


@pytest.fixture
def cfg(repo: Path) -> CfgNode:
    return load_config(str(repo / "configs" / "COCO-Detection" / "rtdetrv2_R_18.yaml"), SMALL)


@pytest.fixture
def model(cfg: CfgNode) -> RTDETR:
    torch.manual_seed(0)
    return build_model(cfg)


def image(height: int, width: int, count: int = 0) -> dict:
    generator = torch.Generator().manual_seed(height)
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[4.0, 6.0, 30.0, 40.0], [20.0, 10.0, 50.0, 50.0]])[:count])
    instances.gt_classes = torch.arange(count)
    pixels = torch.randint(0, 256, (3, height, width), generator=generator, dtype=torch.uint8)
    return {"image": pixels, "instances": instances}


def settle(model: RTDETR) -> RTDETR:
    """Norms that leave padding at zero, so that only convolutions at an image's end differ, and scores that do."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.bias.data.zero_()
    for head in (*model.class_embed, *(head.layers[-1] for head in model.bbox_embed)):
        torch.nn.init.normal_(head.weight, std=0.3)
    return model.eval()


@torch.no_grad()
def test_an_image_alone_and_beside_a_larger_one(model: RTDETR) -> None:
    settle(model)
    small, large = image(250, 316), image(288, 384)
    features = []
    for batch in ([small], [small, large]):
        images = model.preprocess(batch)
        maps = model.backbone(images.tensor)
        levels = model.project([maps[name] for name in model.in_features], images)
        features.append(
            [
                part[0].unflatten(0, shape)
                for part, shape in zip(levels.split(levels.tokens), levels.spatial_shapes, strict=True)
            ]
        )
        valid = levels.centers[0][(levels.centers[0] < 1).all(-1)]
        assert len(valid) == 32 * 40 + 16 * 20 + 8 * 10
    for alone, beside in zip(*features, strict=True):
        height, width, _ = alone.shape
        error = (beside[:height, :width] - alone).square().mean().sqrt()
        assert error < 0.25 * alone.std()


@torch.no_grad()
def test_images_of_one_size_do_not_depend_on_each_other(model: RTDETR) -> None:
    settle(model)
    first, second = image(64, 96), image(64, 96)
    second["image"] = 255 - second["image"]
    alone, together = model([first])[0]["instances"], model([first, second])[0]["instances"]
    torch.testing.assert_close(alone.scores, together.scores, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("counts", [(0, 0), (2, 0)])
def test_images_without_objects_teach_every_head(model: RTDETR, counts: tuple[int, int]) -> None:
    losses = model.train()([image(64, 96, count) for count in counts])
    sum(losses.values()).backward()
    assert all(torch.isfinite(value) for value in losses.values())
    assert {name for name, p in model.named_parameters() if p.grad is None} == set()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bits(model: RTDETR, dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype):
        losses = model.train()([image(64, 96, 2), image(64, 64, 1)])
        assert all(torch.isfinite(value) and value.dtype == torch.float32 for value in losses.values())
        with torch.no_grad():
            boxes = model.eval()([image(64, 96)])[0]["instances"].pred_boxes.tensor
    sum(losses.values()).backward()
    assert torch.isfinite(boxes).all()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 4, "RT-DETR has the levels"),
        ("MODEL.RTDETR.EVAL_LAYERS", 4, "EVAL_LAYERS is 4, but the decoder has"),
        ("MODEL.RTDETR.CLASS_LOSS", "focal", "CLASS_LOSS is 'focal', expected one of"),
        ("MODEL.RTDETR.ACTIVATION", "tanh", "ACTIVATION is 'tanh', expected one of"),
    ],
)
def test_what_configs_may_not_say(cfg: CfgNode, key: str, value: object, message: str) -> None:
    cfg.merge_from_list([key, value])
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
