"""Predictions drawn over images, without a model."""

import numpy as np
import pytest
import torch
from detectron2.data import Metadata
from detectron2.structures import Boxes, Instances

from detr_d2.visualization.predictions import choose_show, draw_prediction

IMAGE = np.full((80, 100, 3), 60, dtype=np.uint8)
NAMED = Metadata().set(thing_classes=["cat", "dog"], thing_colors=[[250, 0, 0], [0, 0, 250]])


def instances(*classes: int, with_masks: bool = False) -> Instances:
    """Boxes of 20 x 20 from left to right, each less certain than the one before."""
    result = Instances((80, 100))
    corners = [[5 + 30 * i, 30, 25 + 30 * i, 50] for i in range(len(classes))]
    result.pred_boxes = Boxes(torch.tensor(corners, dtype=torch.float32).reshape(-1, 4))
    result.scores = torch.tensor([0.9 - 0.2 * i for i in range(len(classes))])
    result.pred_classes = torch.tensor(classes, dtype=torch.int64)
    if with_masks:
        result.pred_masks = torch.zeros(len(classes), 80, 100, dtype=torch.bool)
        for mask, (x0, y0, x1, y1) in zip(result.pred_masks, corners, strict=True):
            mask[y0:y1, x0:x1] = True
    return result


def panoptic(*segments: dict) -> tuple[torch.Tensor, list[dict]]:
    """Segments as bands of 20 rows."""
    ids = torch.zeros(80, 100, dtype=torch.int32)
    for i, segment in enumerate(segments):
        ids[20 * i : 20 * i + 20] = segment["id"]
    return ids, list(segments)


def test_auto_is_the_most_that_there_is() -> None:
    boxes, masks = {"instances": instances(0)}, {"instances": instances(0, with_masks=True)}
    assert choose_show("auto", boxes) == "boxes"
    assert choose_show("auto", masks) == "masks"
    assert choose_show("auto", masks | {"panoptic_seg": panoptic()}) == "panoptic"
    assert choose_show("boxes", masks | {"panoptic_seg": panoptic()}) == "boxes"


@pytest.mark.parametrize(
    ("show", "output", "says"),
    [
        ("masks", {"instances": instances(0)}, "show as masks: the model gives boxes"),
        ("panoptic", {"instances": instances(0, with_masks=True)}, "show as panoptic: the model gives boxes and masks"),
        ("auto", {"sem_seg": None}, "sem_seg: neither"),
    ],
)
def test_what_the_model_does_not_give(show: str, output: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        choose_show(show, output)


def test_objects_below_the_threshold_are_not_drawn() -> None:
    output = {"instances": instances(0, 1)}  # scores 0.9 and 0.7
    left, both = (draw_prediction(IMAGE, output, NAMED, threshold=t).astype(int) for t in (0.8, 0.5))
    assert left.shape == both.shape == IMAGE.shape
    assert np.abs(left[28:52, 3:8] - 60).max() > 30
    upper_edge = np.s_[28:33, 38:58]  # of the second box; labels are below the boxes
    assert np.abs(left[upper_edge] - 60).max() <= 1
    assert np.abs(both[upper_edge] - 60).max() > 30
    assert np.abs(draw_prediction(IMAGE, output, NAMED, threshold=1.0).astype(int) - 60).max() <= 1


def test_masks_fill_and_boxes_do_not() -> None:
    output = {"instances": instances(0, with_masks=True)}
    masks, boxes = (draw_prediction(IMAGE, output, NAMED, show=show).astype(int) for show in ("masks", "boxes"))
    inside = np.s_[36:44, 10:20]
    assert np.median(np.abs(masks[inside] - 60)) > 20
    assert np.median(np.abs(boxes[inside] - 60)) <= 1


def test_the_same_prediction_gives_the_same_picture() -> None:
    output = {"instances": instances(0, 0, 1, with_masks=True)}
    first = draw_prediction(IMAGE, output, NAMED)
    assert (draw_prediction(IMAGE, output, NAMED) == first).all()


def test_in_a_video_a_class_has_one_colour() -> None:
    output = {"instances": instances(0, 0, with_masks=True)}
    video, image = (draw_prediction(IMAGE, output, NAMED, is_video=x) for x in (True, False))
    centres = [(slice(33, 36), slice(12, 15)), (slice(33, 36), slice(42, 45))]
    assert (video[centres[0]] == video[centres[1]]).all()
    assert (image[centres[0]] != image[centres[1]]).any()


def test_classes_without_names_and_colours() -> None:
    things = {"id": 1, "isthing": True, "category_id": 7, "score": 0.9}
    stuff = {"id": 2, "isthing": False, "category_id": 12}
    output = {"instances": instances(3, 9), "panoptic_seg": panoptic(things, stuff)}
    for metadata in (Metadata(), NAMED):
        drawn = draw_prediction(IMAGE, output, metadata).astype(int)
        assert np.median(np.abs(drawn[:40] - 60)) > 5
        assert np.abs(drawn[60:] - 60).max() <= 1  # void
        assert np.abs(draw_prediction(IMAGE, output, metadata, show="boxes").astype(int) - 60).max() > 30
    assert NAMED.thing_classes == ["cat", "dog"]
