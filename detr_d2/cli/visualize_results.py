"""Draw images of a dataset with their ground truth beside what evaluation wrote, on one sheet: boxes of
coco_instances_results.json, or the segments of panoptic_predictions.json, with the attention of a few queries beside
them where --queries asks for them, of the panoptic DETR that --config-file names.

    python tools/visualize_results.py --input output/quickstart/inference/shapes_val/panoptic_predictions.json \
        --dataset shapes_val --output sheet.png --queries 2 \
        --config-file output/quickstart/config.yaml MODEL.WEIGHTS output/quickstart/model_final.pth
"""

import argparse
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog

from ..command_line import PICTURE_SUFFIXES, ToolParser, check_output, command_line_tool, write_picture
from ..data import build_dataset_mapper
from ..data.checks import check_dataset_name
from ..data.image_files import read_ids, read_image
from ..engine import load_config, load_trained_model, prepare_device
from ..facts import model_facts
from ..files import read_json
from ..visualization.attention import mask_looks
from ..visualization.attention_sheet import mark
from ..visualization.predictions import draw_annotations, draw_boxes, draw_prediction
from ..visualization.sheet import GAP, fit_height, make_sheet, with_title

WHITE = (255, 255, 255)
Drawer = Callable[[dict, np.ndarray, int], list[np.ndarray]]  # dataset dict, image, height -> pictures


def box_drawer(results: list[dict[str, Any]], metadata: Metadata, threshold: float) -> Drawer:
    """Draws the boxes of an image whose score is at least ``threshold``."""
    by_image = defaultdict(list)
    for result in results:
        if result["score"] >= threshold:
            by_image[result["image_id"]].append(result)
    class_ids = metadata.thing_dataset_id_to_contiguous_id
    return lambda item, image, height: [draw_boxes(image, metadata, by_image[item["image_id"]], class_ids, height)]


def panoptic_drawer(predictions: dict[str, Any], folder: Path, metadata: Metadata) -> Drawer:
    """Draws the panoptic map of an image; ``folder`` holds the PNGs."""
    by_image = {a["image_id"]: a for a in predictions["annotations"]}
    things, stuff = metadata.thing_dataset_id_to_contiguous_id, metadata.stuff_dataset_id_to_contiguous_id
    class_ids = stuff | things

    def draw(item: dict, image: np.ndarray, height: int) -> list[np.ndarray]:
        annotation = by_image[item["image_id"]]
        segments = [
            {**s, "category_id": class_ids[s["category_id"]], "isthing": s["category_id"] in things}
            for s in annotation["segments_info"]
        ]
        output = {"panoptic_seg": (read_ids(folder / annotation["file_name"]), segments)}
        return [draw_prediction(image, output, metadata, height=height)]

    return draw


def attention_drawer(config_file: str, opts: list[str], metadata: Metadata, num_queries: int) -> Drawer:
    """Draws the attention maps of the most certain queries."""
    cfg = load_config(config_file, opts)
    prepare_device(cfg)
    if not model_facts(cfg).mask_attention:
        raise ValueError(f"{config_file}: attention maps need a panoptic DETR, not a {cfg.MODEL.META_ARCHITECTURE}.")
    model = load_trained_model(cfg)
    mapper = build_dataset_mapper(cfg, is_train=False)

    def draw(item: dict, image: np.ndarray, height: int) -> list[np.ndarray]:
        pictures = []
        for look in mask_looks(model, mapper(item), num_queries):
            pictures.append(look.attention.draw(image, height))
            name = metadata.stuff_classes[look.who.label]  # of a panoptic dataset: things, too
            mark(pictures[-1], look.who, WHITE, f"{name} {look.who.score:.0%}")
        return pictures

    return draw


def draw_row(item: dict, metadata: Metadata, drawers: list[Drawer], height: int) -> list[np.ndarray]:
    """Ground truth, then what each of ``drawers`` makes of one image, each H x W x 3 RGB of one height."""
    image = read_image(item["file_name"], "RGB")
    pictures = [draw_annotations(image, metadata, item, height)]
    for draw in drawers:
        pictures += draw(item, image, height)
    return [fit_height(picture, height) for picture in pictures]


def draw_sheet(args: argparse.Namespace) -> np.ndarray:
    """The sheet that a command line asks for, H x W x 3 RGB."""
    items, metadata = DatasetCatalog.get(args.dataset)[: args.num], MetadataCatalog.get(args.dataset)
    results = read_json(args.input)
    if isinstance(results, dict):
        drawers = [panoptic_drawer(results, args.input.with_suffix(""), metadata)]
    else:
        drawers = [box_drawer(results, metadata, args.threshold)]
        items = [{k: v for k, v in item.items() if k != "pan_seg_file_name"} for item in items]
    if args.queries:
        drawers.append(attention_drawer(args.config_file, args.opts, metadata, args.queries))
    rows = [draw_row(item, metadata, drawers, args.height) for item in items]
    titles = ["ground truth", "prediction", *(f"attention, rank {i + 1}" for i in range(max(map(len, rows)) - 2))]
    blank = np.full((args.height + GAP, 1, 3), 255, np.uint8)
    pictures = [picture for row in rows for picture in row + [blank] * (len(titles) - len(row))]
    columns = args.columns * len(titles)
    first = [with_title(picture, titles[i % len(titles)]) for i, picture in enumerate(pictures[:columns])]
    return make_sheet(first + pictures[columns:], columns)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    parser = ToolParser(__doc__)
    parser.add_argument("--input", required=True, type=Path, help="file of predictions that evaluation wrote")
    parser.add_argument("--dataset", required=True, help="name of the dataset that was evaluated")
    parser.add_argument("--output", required=True, type=Path, help="picture to write")
    parser.add_argument("--num", type=int, default=12, help="images, from the first (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=3, help="images in a row (default: %(default)s)")
    parser.add_argument("--height", type=int, default=240, help="pixels of each picture (default: %(default)s)")
    parser.add_argument("--threshold", type=float, default=0.7, help="least score of boxes (default: %(default)s)")
    parser.add_argument(
        "--config-file", default="", help="config whose DATASETS.CUSTOM names the dataset, and whose attention is drawn"
    )
    parser.add_argument("--queries", type=int, default=0, help="attention maps an image, of the model of --config-file")
    parser.add_overrides()
    args = parser.parse_args(argv)
    check_output(args.output, suffixes=PICTURE_SUFFIXES)
    if args.queries and not args.config_file:
        raise ValueError("--queries needs the model that made the predictions: name its --config-file.")
    if args.config_file:
        load_config(args.config_file)  # which registers its datasets
    check_dataset_name(args.dataset)
    write_picture(args.output, draw_sheet(args))
    return 0


if __name__ == "__main__":
    sys.exit(main())
