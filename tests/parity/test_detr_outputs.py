"""Every stage of DETR, from images to detections, equals the reference with the same published-layout weights."""

import math

import torch
from transformers import DetrImageProcessor
from transformers.models.detr.modeling_detr import DetrObjectDetectionOutput

from .conftest import Run

TOLERANCE = {"atol": 1e-4, "rtol": 0.0}


def test_normalised_and_padded_images(run: Run) -> None:
    images = run.pair.ours.preprocess(run.batch.inputs)
    torch.testing.assert_close(images.tensor, run.batch.pixel_values, **TOLERANCE)
    torch.testing.assert_close(images.mask, run.batch.pixel_mask == 0)


def test_feature_mask(run: Run) -> None:
    torch.testing.assert_close(run.ours.feature_mask, run.reference.feature_mask)
    if len(run.batch.inputs) > 1:  # a case in which ceil(size / stride) would be another mask
        stride = 16 if run.pair.case.dilation else 32
        rows, columns = (~run.ours.feature_mask).amax(2).sum(1), (~run.ours.feature_mask).amax(1).sum(1)
        assert columns[0] > math.ceil(run.batch.sizes[0][1] / stride)
        assert rows[1] > math.ceil(run.batch.sizes[1][0] / stride)


def test_backbone_feature(run: Run) -> None:
    assert run.reference.feature.std() > 0.1
    torch.testing.assert_close(run.ours.feature, run.reference.feature, **TOLERANCE)


def test_position_encoding(run: Run) -> None:
    position = run.ours.position.expand_as(run.reference.position)
    torch.testing.assert_close(position, run.reference.position, **TOLERANCE)


def test_projected_feature(run: Run) -> None:
    torch.testing.assert_close(run.ours.projected, run.reference.projected, **TOLERANCE)


def test_encoder_output(run: Run) -> None:
    valid = ~run.ours.feature_mask.flatten(1)  # what padded cells hold reaches nothing else
    torch.testing.assert_close(run.ours.memory[valid], run.reference.memory[valid], **TOLERANCE)


def test_every_decoder_layer(run: Run) -> None:
    assert run.ours.hidden.shape[0] == 6
    torch.testing.assert_close(run.ours.hidden, run.reference.hidden, **TOLERANCE)


def test_logits(run: Run) -> None:
    assert run.reference.logits[-1].std(dim=1).mean() > 0.1, "the queries' classes do not differ"
    torch.testing.assert_close(run.ours.logits, run.reference.logits, **TOLERANCE)


def test_boxes(run: Run) -> None:
    assert run.reference.boxes[-1].std(dim=1).mean() > 0.02, "the queries' boxes do not differ"
    torch.testing.assert_close(run.ours.boxes, run.reference.boxes, **TOLERANCE)


def test_detections(run: Run) -> None:
    """The reference's post-processing, then clipped to the image as every Detectron2 model's results are."""
    outputs = DetrObjectDetectionOutput(logits=run.reference.logits[-1], pred_boxes=run.reference.boxes[-1])
    sizes = [(x["height"], x["width"]) for x in run.batch.inputs]
    expected = DetrImageProcessor().post_process_object_detection(outputs, threshold=0.0, target_sizes=sizes)

    run.pair.ours.eval()
    try:
        with torch.no_grad():
            results = run.pair.ours(run.batch.inputs)
    finally:
        run.pair.ours.train()

    for result, reference, (height, width) in zip(results, expected, sizes, strict=True):
        instances = result["instances"]
        limit = torch.tensor([width, height, width, height])
        boxes = torch.minimum(reference["boxes"].clamp(min=0), limit)
        assert instances.image_size == (height, width)
        assert len(instances) == 100
        relative = instances.pred_boxes.tensor / limit
        torch.testing.assert_close(relative, boxes / limit, **TOLERANCE)
        torch.testing.assert_close(instances.scores, reference["scores"], **TOLERANCE)
        torch.testing.assert_close(instances.pred_classes, reference["labels"])
