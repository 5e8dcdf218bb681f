#!/usr/bin/env python
"""Draw images of a data set with their ground-truth boxes beside a model's, on one sheet, a colour a class.

    python tools/visualize_results.py --input output/quickstart/inference/shapes_val/coco_instances_results.json \
        --dataset shapes_val --output sheet.png
"""

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import Boxes, BoxMode, Instances
from detectron2.utils.visualizer import ColorMode, Visualizer

import detr_d2  # noqa: F401 (registers the data sets)

GAP = 6  # pixels between pictures


def read_predictions(path: Path, class_ids: dict[int, int], threshold: float) -> dict[int, list[dict]]:
    """COCO results by image id, those above the threshold, with contiguous classes as ``class``."""
    predictions = defaultdict(list)
    for result in json.loads(path.read_text()):
        if result["score"] >= threshold:
            predictions[result["image_id"]].append({**result, "class": class_ids[result["category_id"]]})
    return predictions


def draw_pair(item: dict, predictions: list[dict], dataset: str, height: int) -> np.ndarray:
    """Ground truth left, predictions right, both ``height`` pixels high; H x W x 3 RGB."""
    image = read_image(item["file_name"], "RGB")
    metadata, scale = MetadataCatalog.get(dataset), height / image.shape[0]
    annotations = [{k: v for k, v in a.items() if k != "segmentation"} for a in item["annotations"]]
    truth = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION).draw_dataset_dict({"annotations": annotations})
    instances = Instances(image.shape[:2])
    boxes = np.array([p["bbox"] for p in predictions], dtype=np.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    instances.scores = np.array([p["score"] for p in predictions])
    instances.pred_classes = np.array([p["class"] for p in predictions], dtype=np.int64)
    predicted = Visualizer(image, metadata, scale, ColorMode.SEGMENTATION).draw_instance_predictions(instances)
    return np.concatenate([fit_height(x.get_image(), height) for x in (truth, predicted)], axis=1)


def fit_height(image: np.ndarray, height: int) -> np.ndarray:
    """Resize to exactly ``height`` and leave a white gap at the right."""
    image = cv2.resize(image, (round(image.shape[1] * height / image.shape[0]), height))
    return cv2.copyMakeBorder(image, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255))


def make_sheet(pairs: list[np.ndarray], columns: int) -> np.ndarray:
    """Pictures of one height in rows of ``columns``, each cell as wide as the widest picture."""
    width = max(pair.shape[1] for pair in pairs)
    cells = [np.pad(p, ((0, 0), (0, width - p.shape[1]), (0, 0)), constant_values=255) for p in pairs]
    cells += [np.full_like(cells[0], 255)] * (-len(cells) % columns)
    return np.concatenate([np.concatenate(cells[i : i + columns], axis=1) for i in range(0, len(cells), columns)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, type=Path, help="coco_instances_results.json that evaluation wrote")
    parser.add_argument("--dataset", required=True, help="name of the data set that was evaluated")
    parser.add_argument("--output", required=True, type=Path, help="picture to write")
    parser.add_argument("--num", type=int, default=12, help="images, from the first (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=3, help="pairs in a row (default: %(default)s)")
    parser.add_argument("--height", type=int, default=240, help="pixels of each picture (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.7, help="least score drawn (default: %(default)s)")
    args = parser.parse_args()
    try:
        items = DatasetCatalog.get(args.dataset)[: args.num]
        class_ids = MetadataCatalog.get(args.dataset).thing_dataset_id_to_contiguous_id
        predictions = read_predictions(args.input, class_ids, args.threshold)
        pairs = [draw_pair(item, predictions[item["image_id"]], args.dataset, args.height) for item in items]
        if not cv2.imwrite(str(args.output), make_sheet(pairs, args.columns)[:, :, ::-1]):
            raise OSError(f"{args.output} could not be written.")
    except (OSError, ValueError, KeyError, cv2.error) as error:
        sys.exit(f"visualize_results.py: {error}")


if __name__ == "__main__":
    main()
