"""What a step asks of a GPU: operators, and how often Python waits for them. Counted on a CPU, see `pretend_device`.

The limits are today's counts: whoever lowers one lowers the limit.
"""

from collections.abc import Callable

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage

from detr_d2.engine import StepTrainer
from detr_d2.solver import build_optimizer

from .pretend_device import Counts, move

CONFIGS = {
    "DETR": "COCO-Detection/detr_R_50_300ep",
    "panoptic DETR": "COCO-PanopticSegmentation/panoptic_detr_R_50",
    "two-stage Deformable DETR": "COCO-Detection/deformable_detr_R_50_two_stage",
    "DINO": "COCO-Detection/dino_R_50_4scale_12ep",
    "RT-DETR": "COCO-Detection/rtdetrv2_R_18",
    "D-FINE": "COCO-Detection/dfine_S",
    "Mask2Former": "COCO-PanopticSegmentation/mask2former_R_50",
    "FCOS": "COCO-Detection/fcos_R_50_1x",
}
# Family -> operators and waits of an image's inference, operators and waits of a training step of two images.
LIMITS = {
    "DETR": (330, 1, 2025, 2),
    "panoptic DETR": (423, 7, 1029, 2),
    "two-stage Deformable DETR": (575, 1, 2766, 3),  # proposals are matched, too
    "DINO": (607, 1, 3156, 3),
    "RT-DETR": (442, 1, 3464, 3),  # proposals are matched, too
    "D-FINE": (641, 1, 4943, 2),
    "Mask2Former": (527, 13, 2501, 2),
    "FCOS": (314, 4, 1231, 2),
}
SMALL = [
    *["MODEL.MASK_FORMER.HIDDEN_DIM", 32, "MODEL.MASK_FORMER.NHEADS", 4, "MODEL.MASK_FORMER.DEC_LAYERS", 3],
    *["MODEL.MASK_FORMER.DIM_FEEDFORWARD", 64, "MODEL.MASK_FORMER.ENC_DIM_FEEDFORWARD", 64],
    *["MODEL.MASK_FORMER.NUM_OBJECT_QUERIES", 12, "MODEL.MASK_FORMER.TRAIN_NUM_POINTS", 64],
    *["MODEL.SEM_SEG_HEAD.MASK_DIM", 32, "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS", 2, "MODEL.FPN.OUT_CHANNELS", 64],
    *["MODEL.RTDETR.ENC_DIM", 64, "MODEL.RTDETR.ENC_DIM_FEEDFORWARD", 64, "MODEL.RTDETR.NORM", "BN"],
    *["MODEL.HGNET.NORM", "BN"],
    # Random weights are sure of nothing: these let some segments and detections through.
    *["MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", 0.0, "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD", 0.0],
    *["MODEL.FCOS.SCORE_THRESH_TEST", 0.005, "MODEL.FCOS.NUM_CONVS", 1],
    *["SOLVER.OPTIMIZER", "SGD", "SOLVER.AMP.ENABLED", False],
]


@pytest.fixture
def cfg_of(narrow_cfg) -> Callable[[str], CfgNode]:
    """The narrow cfg of a family of `CONFIGS`."""
    return lambda family: narrow_cfg(CONFIGS[family], *SMALL)


def image(height: int, width: int) -> dict:
    return {"image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8), "height": height, "width": 2 * width}


def annotated(height: int, width: int) -> dict:
    """An image with two objects."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[1.0, 2, 30, 40], [20, 20, 60, 60]]))
    instances.gt_classes = torch.tensor([0, 2])
    instances.gt_masks = BitMasks(torch.rand(2, height, width) > 0.5)
    return image(height, width) | {"instances": instances}


def of_inference(cfg: CfgNode) -> Counts:
    """Of the second image, since the first may prepare something that stays."""
    model = move(build_model(cfg).eval())
    with torch.no_grad():
        for _ in range(2):
            with Counts() as counts:
                model([image(64, 96)])
    return counts


def of_training(cfg: CfgNode) -> Counts:
    """Of a step on two images of different sizes."""
    model = move(build_model(cfg))
    batch = [annotated(64, 96), annotated(72, 80)]
    trainer = StepTrainer(cfg, model, [batch], build_optimizer(cfg, model))
    with EventStorage(), Counts() as counts:
        trainer.run_step()
    return counts


@pytest.mark.parametrize("family", CONFIGS)
def test_operators_and_waits(family: str, cfg_of, monkeypatch) -> None:
    monkeypatch.setenv("DETR_D2_MS_DEFORM_ATTN", "torch")
    torch.manual_seed(0)
    cfg = cfg_of(family)
    inference, training = of_inference(cfg), of_training(cfg)
    found = [number for counts in (inference, training) for number in (counts.operators.total(), counts.waits.total())]
    limits = zip(found, LIMITS[family], strict=True)
    assert all(number <= limit for number, limit in limits), (found, inference.waits, training.waits)


def test_no_frozen_norm_is_folded_in_inference(cfg_of) -> None:
    counts = of_inference(cfg_of("DETR"))
    assert counts.operators["aten::rsqrt"] == 0
    assert counts.operators["aten::convolution"] == 54  # of the backbone, and the projection
