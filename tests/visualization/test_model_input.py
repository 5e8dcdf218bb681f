"""What mappers hand over, drawn; the pixels are compared with the mapper's own boxes and masks."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.structures import BitMasks, Boxes, Instances

from detr_d2.data import build_dataset_mapper
from detr_d2.engine import load_config
from detr_d2.visualization.model_input import InputDrawer, describe_input


@pytest.fixture
def config(shapes_root, repo):
    return lambda name, *opts: load_config(str(repo / "configs" / "Shapes" / f"{name}.yaml"), opts)


def grey_item(height: int, width: int) -> dict:
    """An image without anything on it, with one object."""
    instances = Instances((height, width))
    instances.gt_boxes = Boxes(torch.tensor([[10.0, 20.0, 30.0, 50.0]]))
    instances.gt_classes = torch.tensor([1])
    return {"image": torch.full((3, height, width), 128, dtype=torch.uint8), "instances": instances}


def changed(picture: np.ndarray) -> np.ndarray:
    """Where a picture is no longer grey."""
    return np.abs(picture.astype(int) - 128).max(-1) > 8


def test_boxes_are_where_the_mapper_has_them(config) -> None:
    drawer = InputDrawer(config("detr_R_18"), "shapes_val")
    marks = changed(drawer.draw(grey_item(60, 80), 240))
    assert marks.shape == (240, 320)
    assert marks[110:190, [40, 120]].all()
    assert marks[[80, 200], 60:110].all()
    assert not marks[150:190, 50:110].any()  # inside, below the label
    assert not marks[:, 130:].any()
    assert not marks[:75].any()


def test_masks_and_stuff(config) -> None:
    """Of stuff, the box is dashed and the name stands in the middle of the mask."""
    drawer = InputDrawer(config("panoptic_detr_R_18"), "shapes_val")
    item = grey_item(60, 80)
    item["instances"].gt_masks = BitMasks(torch.zeros(1, 60, 80, dtype=torch.bool))
    item["instances"].gt_masks.tensor[0, 20:50, 10:30] = True
    as_thing = drawer.draw(item, 240)
    assert changed(as_thing)[90:190, 50:110].all()
    item["instances"].gt_classes = torch.tensor([5])
    edge = drawer.draw(item, 240)[110:190, 120]
    whole = as_thing[110:190, 120]
    assert len(np.unique(whole, axis=0)) < len(np.unique(edge, axis=0))


def test_every_channel_order_gives_the_same_picture(config) -> None:
    item = DatasetCatalog.get("shapes_val")[0]
    pictures = []
    for image_format in ("RGB", "BGR"):
        cfg = config("faster_rcnn_R_18", "INPUT.FORMAT", image_format)
        pictures.append(InputDrawer(cfg, "shapes_val").draw(build_dataset_mapper(cfg, False)(item), 200))
    np.testing.assert_array_equal(*pictures)


def test_a_grey_image(config) -> None:
    cfg = config("detr_R_18")
    cfg.INPUT.FORMAT = "L"
    item = grey_item(40, 50)
    item["image"] = item["image"][:1]
    assert InputDrawer(cfg, "shapes_val").draw(item, 80).shape == (80, 100, 3)


def test_semantic_maps(config) -> None:
    drawer = InputDrawer(config("panoptic_fpn_R_18"), "shapes_val_separated")
    item = grey_item(60, 80)
    del item["instances"]
    item["sem_seg"] = torch.full((60, 80), 255)
    assert not changed(drawer.draw(item, 240)).any()
    item["sem_seg"][:, 40:] = 2
    marks = changed(drawer.draw(item, 240))
    assert marks[5:-5, 165:-5].all()  # but for the margin, which the outline of a mask may leave out
    assert not marks[:, :150].any()


def test_description() -> None:
    item = grey_item(60, 80)
    assert describe_input(item) == "80 x 60, 1 object"
    item["instances"] = item["instances"][:0]
    assert describe_input(item | {"width": 160, "height": 120}) == "160 x 120 to 80 x 60, 0 objects"
