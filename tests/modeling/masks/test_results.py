"""Results from masks, beside slow formulas written from the paper's description, one query and pixel after another."""

import pytest
import torch
from detectron2.structures import BitMasks
from torch import Tensor

from detr_d2.modeling.masks import InstanceMasks, MaskReader, PanopticMap, SemanticMap
from detr_d2.modeling.masks.results import boxes_of_masks

SIZE = (9, 13)
IS_THING = torch.tensor([True, True, False, False])


def blobs(count: int) -> Tensor:
    """Smooth mask logits that overlap."""
    generator = torch.Generator().manual_seed(3)
    coarse = 6 * torch.randn(count, 1, 3, 4, generator=generator)
    return torch.nn.functional.interpolate(coarse, SIZE, mode="bilinear")[:, 0]


def read(reader: MaskReader, logits: Tensor, chunk: int) -> None:
    for query in torch.arange(len(logits)).split(chunk):
        reader.read(query, logits[query])


def panoptic_by_hand(logits: Tensor, query: list[int], scores: Tensor, classes: Tensor, threshold: float):
    """Section by section: the strongest mask of each pixel, the overlap test, the merge of stuff."""
    probability = logits[query].sigmoid()
    owner = (scores[:, None, None] * probability).argmax(0)
    result, segments, stuff = torch.zeros(SIZE, dtype=torch.int32), [], {}
    for k in range(len(query)):
        won, mask = owner == k, probability[k] >= 0.5
        if not (won & mask).any() or won.sum() / mask.sum() < threshold:
            continue
        category = int(classes[k])
        if not IS_THING[category] and category in stuff:
            result[won & mask] = stuff[category]
            continue
        segments.append((len(segments) + 1, bool(IS_THING[category]), category))
        result[won & mask] = len(segments)
        if not IS_THING[category]:
            stuff[category] = len(segments)
    return result, segments


@pytest.mark.parametrize("chunk", [1, 3, 100])
@pytest.mark.parametrize("threshold", [0.0, 0.4, 0.8])
def test_panoptic_map(threshold: float, chunk: int) -> None:
    logits, query = blobs(12), [0, 2, 3, 5, 6, 7, 9, 11]
    scores = torch.linspace(0.99, 0.6, 8)
    classes = torch.tensor([2, 0, 2, 3, 1, 2, 3, 0])
    reader = PanopticMap(torch.tensor(query), scores, classes, SIZE, threshold)
    read(reader, logits, chunk)
    result, segments = reader.result(IS_THING)
    expected, expected_segments = panoptic_by_hand(logits, query, scores, classes, threshold)
    assert result.dtype == torch.int32
    assert torch.equal(result, expected)
    assert [(s["id"], s["isthing"], s["category_id"]) for s in segments] == expected_segments
    assert [s["area"] for s in segments] == [int((result == s["id"]).sum()) for s in segments]
    if threshold == 0:  # there is something to see: stuff that was merged
        assert 2 < len(segments) < len(query)


def test_a_segment_that_others_cover_is_left_out_and_its_pixels_are_void() -> None:
    logits = torch.full((2, *SIZE), -9.0)
    logits[0, :4] = 9.0
    logits[1, :5] = 8.0  # keeps a fifth of its mask
    for threshold, expected in ((0.8, [0, 1]), (0.1, [0, 1, 2])):
        reader = PanopticMap(torch.arange(2), torch.tensor([0.9, 0.9]), torch.tensor([0, 1]), SIZE, threshold)
        read(reader, logits, 2)
        result, segments = reader.result(IS_THING)
        assert result.unique().tolist() == expected
        assert len(segments) == len(expected) - 1


def test_no_segments() -> None:
    none = torch.zeros(0, dtype=torch.int64)
    result, segments = PanopticMap(none, none.float(), none, SIZE, 0.8).result(IS_THING)
    assert not result.any()
    assert segments == []
    instances = InstanceMasks(none, none.float(), none).result(SIZE)
    assert instances.pred_masks.shape == (0, *SIZE)
    assert len(instances.pred_boxes) == 0


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_instances(chunk: int) -> None:
    """A query may be several detections; scores are those of the class times the mean probability in the mask."""
    logits = blobs(6)
    query, scores, classes = torch.tensor([4, 1, 4, 0]), torch.tensor([0.9, 0.8, 0.3, 0.2]), torch.tensor([1, 0, 0, 1])
    reader = InstanceMasks(query, scores, classes)
    read(reader, logits, chunk)
    instances = reader.result(SIZE)
    assert torch.equal(instances.pred_masks, logits[query] > 0)
    assert torch.equal(instances.pred_classes, classes)
    for i, (q, score) in enumerate(zip(query, scores, strict=True)):
        mask = logits[q] > 0
        assert instances.scores[i] == pytest.approx(float(score * logits[q].sigmoid()[mask].mean()), abs=1e-5)
        y, x = mask.nonzero(as_tuple=True)
        assert instances.pred_boxes.tensor[i].tolist() == [x.min(), y.min(), x.max() + 1, y.max() + 1]


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_semantic_map(chunk: int) -> None:
    logits, probabilities = blobs(6), torch.rand(6, 4)
    reader = SemanticMap(probabilities, SIZE)
    read(reader, logits, chunk)
    expected = sum(p[:, None, None] * mask.sigmoid() for p, mask in zip(probabilities, logits, strict=True))
    torch.testing.assert_close(reader.result(), expected)


def test_boxes_of_masks_are_those_of_detectron2() -> None:
    torch.manual_seed(0)
    masks = torch.rand(5, 9, 7) > 0.8
    masks[2] = False
    masks[3] = True
    assert torch.equal(boxes_of_masks(masks), BitMasks(masks).get_bounding_boxes().tensor)
    assert boxes_of_masks(masks[:0]).shape == (0, 4)
