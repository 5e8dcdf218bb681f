"""An image's detections do not depend on the others in its batch, but for what convolutions see at its border.

R50 with random weights. Where an image alone ends, convolutions see zeros; in a batch they see what earlier layers made
of the padding. Everything behind the backbone must ignore the padding altogether.
"""

import pytest
import torch
from detectron2.structures import Instances
from torch import Tensor
from torch.nn import functional as F

from detr_d2.modeling import DETR
from detr_d2.structures import PaddedImages

from .conftest import CASES, build_ours, make_batch
from .official_weights import official_state_dict

# Of a relative box coordinate and of a score. Without the mask these weights differ by 0.15 and more.
TOLERANCE = 0.06


@pytest.fixture(scope="module")
def model() -> DETR:
    """R50 whose norms leave padding at zero, as trained ones mostly do, so that only the border itself differs."""
    weights = official_state_dict(50)
    for name in [name for name in weights if name.endswith("running_mean")]:
        prefix = name.removesuffix("running_mean")
        scale = weights[prefix + "weight"] * (weights[prefix + "running_var"] + 1e-5).rsqrt()
        weights[prefix + "bias"] = torch.minimum(weights[prefix + "bias"], weights[name] * scale)
    return build_ours(CASES[0], weights).eval()


def test_detections_alone_and_beside_a_larger_image(model: DETR) -> None:
    batch = make_batch([(320, 416), (384, 512)])
    alone, beside = detections(model, batch.inputs[:1]), detections(model, batch.inputs)
    assert difference(alone, beside) < TOLERANCE
    # The tolerance can tell: without the mask, as several projects evaluate, the same weights fail it.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PaddedImages, "mask_at", lambda self, size: torch.zeros(len(self.tensor), *size).bool())
        assert difference(alone, detections(model, batch.inputs)) > 2 * TOLERANCE


@torch.no_grad()
def test_padding_of_the_feature_map_is_ignored(model: DETR) -> None:
    """The same feature map, cut, and padded with large values."""
    generator = torch.Generator().manual_seed(0)
    feature = torch.randn(1, 2048, 4, 5, generator=generator)
    garbage = F.pad(feature, (0, 3, 0, 2), value=1e3)
    image = torch.zeros(3, 4 * 32, 5 * 32)
    alone = PaddedImages.from_tensors([image])
    padded = PaddedImages.from_tensors([image, torch.zeros(3, 6 * 32, 8 * 32)])
    expected = model.predict({"res5": feature}, alone).predictions
    outputs = model.predict({"res5": garbage.expand(2, -1, -1, -1)}, padded).predictions
    torch.testing.assert_close(outputs.pred_logits[:1], expected.pred_logits, atol=1e-4, rtol=0.0)
    torch.testing.assert_close(outputs.pred_boxes[:1], expected.pred_boxes, atol=1e-5, rtol=0.0)


@torch.no_grad()
def detections(model: DETR, inputs: list[dict]) -> Instances:
    """Of the first image."""
    return model(inputs)[0]["instances"]


def difference(first: Instances, second: Instances) -> float:
    """The largest of all relative box coordinates and scores."""
    height, width = first.image_size
    boxes: Tensor = (first.pred_boxes.tensor - second.pred_boxes.tensor) / torch.tensor([width, height, width, height])
    return max(boxes.abs().max().item(), (first.scores - second.scores).abs().max().item())
