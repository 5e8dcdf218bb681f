"""What box models take, with random values."""

import torch
from detectron2.structures import Boxes, Instances

from detr_d2.modeling import DeformableDETR


def make_inputs(counts: tuple[int, ...] = (), *, sizes: list[tuple[int, int]]) -> list[dict]:
    """Random images of (height, width) ``sizes``, with that many objects each if ``counts`` are given."""
    generator = torch.Generator().manual_seed(1)
    inputs = [{"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)} for size in sizes]
    for item, (height, width), count in zip(inputs, sizes, counts, strict=bool(counts)):
        top_left = torch.rand(count, 2, generator=generator) * torch.tensor([width / 2, height / 2])
        item["instances"] = Instances((height, width))
        item["instances"].gt_boxes = Boxes(torch.cat([top_left, top_left + 20], dim=1))
        item["instances"].gt_classes = torch.randint(0, 80, (count,), generator=generator)
    return inputs


def assert_alone_equals_beside(model: DeformableDETR) -> None:
    """A model of several levels gives an image the same alone and beside a larger one.

    Both from one backbone feature, cut or with garbage as padding; level sizes at which both masks agree.
    """
    small, large = (128, 192), (256, 320)
    images = [torch.zeros(3, *small), torch.zeros(3, *large)]
    alone, beside = (model.preprocess([{"image": image} for image in batch]) for batch in (images[:1], images))
    shapes = model.backbone.output_shape()
    features = {n: 20 * torch.randn(2, shapes[n].channels, *(x // shapes[n].stride for x in large)) for n in shapes}
    cut = {}
    for name, feature in features.items():
        height, width = (x // shapes[name].stride for x in small)
        feature[0, :, :height, :width] /= 20
        cut[name] = feature[:1, :, :height, :width]
    if len(model.input_proj) == 4:  # its 3x3 convolution sees one row and column of the padding
        features["res5"][0, :, 4], features["res5"][0, :, :, 6] = 0.0, 0.0

    with torch.no_grad():
        expected, result = (
            model.predict(f, model.project([f[name] for name in model.in_features], images)).predictions
            for f, images in ((cut, alone), (features, beside))
        )
    assert expected.pred_boxes.std(dim=1).min() > 1e-3
    torch.testing.assert_close(result.pred_boxes[:1], expected.pred_boxes, rtol=0, atol=1e-4)
    torch.testing.assert_close(result.pred_logits[:1], expected.pred_logits, rtol=0, atol=1e-3)
