import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image

from detr_d2.data.image_files import read_ids
from detr_d2.structures import encode_ids
from detr_d2.visualization.predictions import draw_annotations, draw_boxes, draw_prediction
from detr_d2.visualization.sheet import GAP, fit_height, make_sheet

HEIGHT = 120


@pytest.fixture(scope="module")
def item(shapes_root) -> dict:
    items = DatasetCatalog.get("shapes_val")
    return max(items, key=lambda item: sum(s["isthing"] for s in item["segments_info"]))


def test_ids_survive_the_png(tmp_path) -> None:
    ids = np.array([[0, 1, 255], [256, 65536, (1 << 24) - 1]], dtype=np.int32)
    (tmp_path / "ids.png").write_bytes(encode_ids(ids))
    assert (read_ids(tmp_path / "ids.png") == ids).all()


def test_panoptic_segments_change_colour_and_void_does_not(item: dict) -> None:
    metadata = MetadataCatalog.get("shapes_val")
    image = read_image(item["file_name"], "RGB")
    ids = read_ids(item["pan_seg_file_name"])
    segment = max((s for s in item["segments_info"] if s["isthing"]), key=lambda s: s["area"])
    mask = ids == segment["id"]
    inside = cv2.erode(mask.astype(np.uint8), np.ones((5, 5))) > 0
    outside = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) == 0
    drawn = draw_prediction(image, {"panoptic_seg": (np.where(mask, ids, 0), [segment])}, metadata).astype(int)
    difference = np.abs(drawn - image).max(-1)
    assert np.median(difference[inside]) > 5
    assert np.median(difference[outside]) <= 1


def test_annotations_are_segments_where_there_are_any(item: dict) -> None:
    metadata = MetadataCatalog.get("shapes_val")
    image = read_image(item["file_name"], "RGB")
    segments = draw_annotations(image, metadata, item, HEIGHT)
    boxes = draw_annotations(image, metadata, {k: v for k, v in item.items() if k != "pan_seg_file_name"}, HEIGHT)
    assert segments.shape == boxes.shape
    assert abs(segments.shape[0] - HEIGHT) <= 1
    assert (segments != boxes).any()


def test_boxes_are_drawn_where_they_are() -> None:
    metadata = MetadataCatalog.get("shapes_val")
    black = np.zeros((100, 100, 3), dtype=np.uint8)
    result = {"bbox": [20, 40, 30, 20], "score": 0.9, "category_id": 7}
    drawn = draw_boxes(black, metadata, [result], metadata.thing_dataset_id_to_contiguous_id, 100)
    for edge in (20, 50):
        assert drawn[45:55, edge - 2 : edge + 3].any()
    assert not drawn[80:, 60:].any()
    assert not draw_boxes(black, metadata, [], {}, 100).any()


def test_sheet_has_cells_of_one_size() -> None:
    cells = [fit_height(np.zeros((10, width, 3), dtype=np.uint8), 20) for width in (10, 15, 20)]
    assert [cell.shape for cell in cells] == [(20 + GAP, 2 * width + GAP, 3) for width in (10, 15, 20)]
    sheet = make_sheet(cells, columns=2)
    assert sheet.shape == (2 * (20 + GAP), 2 * (40 + GAP), 3)
    assert (sheet[20 + GAP :, 40 + GAP :] == 255).all()  # the cell that is left over
