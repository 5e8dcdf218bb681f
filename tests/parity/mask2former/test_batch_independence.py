"""An image alone and beside a larger one: behind the backbone, what lies beyond an image's own frame is nothing.

The backbone's convolutions see zeros where an image alone ends, and in a batch what earlier layers made of zeros, so
through the whole model results differ at that border, as those of every model here do; images of one frame, which
evaluation puts together, are equal.
"""

import pytest
import torch
from torch.nn import functional as F

from detr_d2.modeling import Mask2Former
from detr_d2.structures import Frames, PaddedImages

from .oracle import BACKBONES, build_pair

SMALL, LARGE = (45, 75), (90, 140)  # frames of 64 x 96 and 96 x 160


@pytest.fixture(scope="module", params=BACKBONES)
def model(request: pytest.FixtureRequest) -> Mask2Former:
    return build_pair(request.param, "MODEL.MASK_FORMER.TEST.SEMANTIC_ON", True)[0]


def images(*sizes: tuple[int, int]) -> PaddedImages:
    return PaddedImages.from_tensors([torch.zeros(3, *size, dtype=torch.float64) for size in sizes], 32)


@torch.no_grad()
def test_equal_features_have_equal_results(model: Mask2Former) -> None:
    alone, beside = images(SMALL), images(SMALL, LARGE)
    features = model.backbone(torch.randn(1, 3, *alone.tensor.shape[-2:], dtype=torch.float64))
    height, width = beside.tensor.shape[-2:]
    strides = {name: shape.stride for name, shape in model.backbone.output_shape().items()}
    garbage = {
        name: F.pad(x, (0, width // strides[name] - x.shape[3], 0, height // strides[name] - x.shape[2]), value=50.0)
        for name, x in features.items()
    }
    first = model.predict(features, alone).predictions
    garbage = {name: torch.cat([x, torch.randn_like(x)]) for name, x in garbage.items()}
    second = model.predict(garbage, beside).predictions
    torch.testing.assert_close(second.logits[:, :1], first.logits, atol=1e-4, rtol=0)
    masks = [torch.einsum("qc,chw->qhw", p.masks.embeddings_of(0)[-1], p.masks.features_of(0)) for p in (first, second)]
    assert masks[0].shape[1:] == (16, 24)
    torch.testing.assert_close(masks[1], masks[0], atol=1e-4, rtol=0)
    inputs = [{"height": 50, "width": 80}, {}]
    results = [
        model.postprocess_image(predictions, 0, SMALL, (inputs[0]["height"], inputs[0]["width"]))
        for predictions in (first, second)
    ]
    torch.testing.assert_close(results[1]["sem_seg"], results[0]["sem_seg"], atol=1e-4, rtol=0)
    torch.testing.assert_close(results[1]["panoptic_seg"][0], results[0]["panoptic_seg"][0])
    torch.testing.assert_close(results[1]["instances"].scores, results[0]["instances"].scores, atol=1e-4, rtol=0)

    # The test can tell: with one frame for all, as published, the padding counts.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Frames, "differ", property(lambda self: False))
        patch.setattr(Frames, "at", lambda self, size: [size] * len(self.sizes))
        assert (model.predict(garbage, beside).predictions.logits[:, :1] - first.logits).abs().max() > 1e-2


@torch.no_grad()
def test_images_of_one_frame_share_a_batch(model: Mask2Former) -> None:
    """Of different sizes, but padded alike when they are alone."""
    inputs = [{"image": torch.randint(256, (3, *size)).double()} for size in ((45, 75), (60, 90))]
    together = model(inputs)
    for item, result in zip(inputs, together, strict=True):
        (alone,) = model([item])
        assert result["sem_seg"].shape[1:] == item["image"].shape[1:]
        torch.testing.assert_close(result["sem_seg"], alone["sem_seg"], atol=1e-4, rtol=0)
        torch.testing.assert_close(result["panoptic_seg"][0], alone["panoptic_seg"][0])
        assert result["panoptic_seg"][1] == pytest.approx(alone["panoptic_seg"][1])
