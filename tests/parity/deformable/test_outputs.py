"""All five variants against the reference, stage by stage, for one image and for two of different sizes."""

import pytest
import torch
from torch import Tensor
from transformers import DeformableDetrImageProcessor
from transformers.models.deformable_detr.modeling_deformable_detr import DeformableDetrObjectDetectionOutput

from .conftest import Run
from .weights import DECODER_LAYERS, ENCODER_LAYERS, QUERIES

TOLERANCE = {"rtol": 1e-3, "atol": 1e-4}


def test_every_encoder_layer(deformable_run: Run) -> None:
    ours, reference = deformable_run.ours.encoder, deformable_run.reference.encoder
    assert len(ours) == ENCODER_LAYERS
    for output, expected in zip(ours, reference, strict=True):
        assert expected.std(dim=1).mean() > 0.1, "the cells do not differ"
        torch.testing.assert_close(output, expected, **TOLERANCE)


def test_every_decoder_layer(deformable_run: Run) -> None:
    assert deformable_run.ours.hidden.shape[0] == DECODER_LAYERS
    torch.testing.assert_close(deformable_run.ours.hidden, deformable_run.reference.hidden, **TOLERANCE)


def test_reference_points(deformable_run: Run) -> None:
    """Points, or boxes from the layer after which they are refined."""
    variant, references = deformable_run.pair.variant, deformable_run.ours.references
    first, later = 4 if variant.two_stage else 2, 4 if variant.refine else 2
    assert [reference.shape[-1] for reference in references] == [first] + [later] * (DECODER_LAYERS - 1)
    assert references[0].std(dim=1).min() > 0.02, "the queries look at one place"
    for ours, expected in zip(references, deformable_run.reference.references, strict=True):
        torch.testing.assert_close(ours, expected, **TOLERANCE)


def test_logits(deformable_run: Run) -> None:
    assert deformable_run.reference.logits[-1].std(dim=1).mean() > 0.1, "the queries' classes do not differ"
    torch.testing.assert_close(deformable_run.ours.logits, deformable_run.reference.logits, **TOLERANCE)


def test_boxes(deformable_run: Run) -> None:
    assert deformable_run.reference.boxes[-1].std(dim=1).mean() > 0.02, "the queries' boxes do not differ"
    torch.testing.assert_close(deformable_run.ours.boxes, deformable_run.reference.boxes, **TOLERANCE)


def test_proposals(deformable_run: Run) -> None:
    """Of every cell; their selection by channel 0 shows in the first layer's references, in their order."""
    ours, reference = deformable_run.ours, deformable_run.reference
    if not deformable_run.pair.variant.two_stage:
        assert ours.proposal_logits is None
        assert reference.proposal_logits is None
        return
    torch.testing.assert_close(ours.proposal_logits, reference.proposal_logits, **TOLERANCE)
    torch.testing.assert_close(ours.proposal_boxes, reference.proposal_boxes, **TOLERANCE)
    silent = (reference.proposal_boxes == 1).all(-1)
    assert silent.any() == (len(silent) > 1), "only padding proposes nothing at this size"
    best = reference.proposal_logits[..., 0].topk(QUERIES, dim=1).indices
    assert not silent.gather(1, best).any()
    selected = ours.proposal_boxes.gather(1, best[..., None].expand(-1, -1, 4))
    torch.testing.assert_close(ours.references[0], selected, **TOLERANCE)


def test_detections(deformable_run: Run) -> None:
    """The reference's post-processing (top 100 over queries and classes), then clipped to the image."""
    model, inputs = deformable_run.pair.ours, deformable_run.batch.inputs
    detection = model.detect(images := model.preprocess(inputs))
    with torch.no_grad():
        results = model.postprocess(detection, images, inputs)
    outputs = DeformableDetrObjectDetectionOutput(
        logits=deformable_run.reference.logits[-1], pred_boxes=deformable_run.reference.boxes[-1]
    )
    sizes = [(x["height"], x["width"]) for x in inputs]
    expected = DeformableDetrImageProcessor().post_process_object_detection(
        outputs, threshold=0.0, target_sizes=sizes, top_k=100
    )
    for result, reference, (height, width) in zip(results, expected, sizes, strict=True):
        instances = result["instances"]
        limit = torch.tensor([width, height, width, height])
        boxes: Tensor = torch.minimum(reference["boxes"].clamp(min=0), limit)
        assert instances.image_size == (height, width)
        assert len(instances) == 100
        torch.testing.assert_close(instances.pred_boxes.tensor / limit, boxes / limit, **TOLERANCE)
        torch.testing.assert_close(instances.scores, reference["scores"], **TOLERANCE)
        torch.testing.assert_close(instances.pred_classes, reference["labels"])


def test_masks_of_the_mixed_batch_tell_nearest_from_ceil(deformable_run: Run) -> None:
    if len(deformable_run.batch.inputs) == 1:
        pytest.skip("nothing is padded")
    images = deformable_run.pair.ours.preprocess(deformable_run.batch.inputs)
    rows = (~images.mask_at((-(-103 // 32), -(-163 // 32)))[1, :, 0]).sum()
    assert rows != -(-59 // 32)
