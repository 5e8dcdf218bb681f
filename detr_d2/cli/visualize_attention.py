"""Draw what a detection transformer looks at: attention of object queries to the image (decoder) and of points of the
image to the rest of it (encoder). For DETR and panoptic DETR it is a map; for Deformable DETR the points that it reads,
larger where their weight is, in the colour of the feature level that they are read from. Each layer of Mask2Former
shows the map of the one level that it looks at, of that what the query's mask covers.

    python tools/visualize_attention.py --config-file output/run/config.yaml MODEL.WEIGHTS output/run/model_final.pth \\
        --input street.jpg --output attention.jpg
    python tools/visualize_attention.py --config-file output/run/config.yaml MODEL.WEIGHTS output/run/model_final.pth \\
        --dataset shapes_val --num 3 --queries 4 7 --encoder-points 0.5,0.5 --layer all --output attention.png

Each row shows an image and one layer: first who looks, then where to. With --per-head, each row shows one query or
point and a picture for each head; otherwise maps are averaged over the heads, and the points of all heads are in one
picture. Layers, queries, heads and levels count from 0.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import DatasetCatalog
from tqdm import tqdm

from ..checkpoint.class_names import class_names_of
from ..command_line import PICTURE_SUFFIXES, ToolParser, check_output, command_line_tool, positive, write_picture
from ..data import build_dataset_mapper
from ..data.checks import check_dataset_name, readable_annotations
from ..data.image_files import read_image
from ..engine import Predictor, load_config
from ..facts import model_facts, num_classes_of
from ..visualization.attention import Look, Recording, record
from ..visualization.attention_sheet import AttentionDrawer
from ..visualization.sheet import stack_rows

ALL = "all"


def read_items(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What the mapper takes of each image: its file."""
    if args.input:
        return [{"file_name": str(path)} for path in args.input]
    check_dataset_name(args.dataset)
    with readable_annotations(args.dataset):
        items = DatasetCatalog.get(args.dataset)[: args.num]
    return [{"file_name": item["file_name"]} for item in items]


def chosen_layers(words: Sequence[str], stack: str, count: int) -> list[int]:
    """The layers that a command line names, in their order.

    Raises:
        ValueError: one is no layer of this stack.
    """
    if ALL in words:
        return list(range(count))
    layers = [int(word) for word in words] or [count - 1]
    for layer in layers:
        if not 0 <= layer < count:
            raise ValueError(f"--layer {layer}: the {stack} has layers 0 to {count - 1}.")
    return layers


def relative_point(point: tuple[float, float], image: np.ndarray, file_name: str) -> tuple[float, float]:
    """Parts of width and height, from which pixels are told by being above 1.

    Raises:
        ValueError: it lies outside of the image.
    """
    height, width = image.shape[:2]
    x, y = point if max(point) <= 1 else (point[0] / width, point[1] / height)
    if not (0 <= x <= 1 and 0 <= y <= 1):
        raise ValueError(
            f"--encoder-points {point[0]:g},{point[1]:g} lies outside of {file_name}, {width} x {height} pixels."
        )
    return x, y


def looks_of(recording: Recording, image: np.ndarray, file_name: str, args: argparse.Namespace) -> Iterator[Look]:
    """What the chosen queries and points of an image look at, layer by layer."""
    queries = recording.queries(args.queries, args.num_queries)
    points = [relative_point(point, image, file_name) for point in args.encoder_points]
    locations = [recording.location(point, args.encoder_level) for point in points]
    for stack, who in (("decoder", queries), ("encoder", locations)):
        if who:
            for layer in chosen_layers(args.layer, stack, len(recording.layers[stack])):
                yield from recording.look(stack, layer, who)


def draw_sheet(args: argparse.Namespace) -> np.ndarray:
    """The picture that a command line asks for, H x W x 3 RGB."""
    cfg = load_config(args.config_file, args.opts)
    if model_facts(cfg).attention is None:
        raise ValueError(
            f"{args.config_file}: a {cfg.MODEL.META_ARCHITECTURE} has no attention to draw; take a model of the DETR "
            "family."
        )
    items = read_items(args)
    predictor, mapper = Predictor(args.config_file, opts=args.opts), build_dataset_mapper(cfg, is_train=False)
    names = class_names_of(predictor.metadata.as_dict(), num_classes_of(cfg)[0])
    drawer = AttentionDrawer(names, args.height, args.per_head)
    rows = []
    for item in tqdm(items, unit="image", disable=None):
        file_name = item["file_name"]
        recording = record(predictor.model, mapper(item))  # the mapper says what is wrong with an unreadable file
        image = read_image(file_name, "RGB")
        rows += drawer.rows(image, Path(file_name).stem, list(looks_of(recording, image, file_name, args)))
    return stack_rows(rows)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output(args.output, suffixes=PICTURE_SUFFIXES)
    if not (args.queries or args.num_queries or args.encoder_points):
        raise ValueError("--num-queries 0 leaves nothing to draw without --encoder-points.")
    write_picture(args.output, draw_sheet(args))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("--config-file", required=True, help="config of the model; its weights are MODEL.WEIGHTS")
    images = parser.add_mutually_exclusive_group(required=True)
    images.add_argument("--input", nargs="+", type=Path, metavar="FILE", help="images")
    images.add_argument("--dataset", help="dataset whose first images are drawn")
    parser.add_argument("--num", type=positive, default=4, help="images of --dataset (default: %(default)s)")
    parser.add_argument("--output", required=True, type=Path, help="picture to write (.png, .jpg)")
    parser.add_argument(
        "--queries", type=int, nargs="+", metavar="INDEX", help="object queries, instead of the highest-scoring"
    )
    parser.add_argument(
        "--num-queries", type=int, default=3, help="so many of the most certain queries (default: %(default)s)"
    )
    parser.add_argument(
        "--encoder-points",
        type=point,
        nargs="+",
        default=[],
        metavar="X,Y",
        help="points whose self-attention in the encoder is drawn: parts of the image's width and height (0..1), or "
        "pixels of the file",
    )
    parser.add_argument(
        "--encoder-level", type=int, default=0, help="feature level of these points (default: %(default)s, the finest)"
    )
    parser.add_argument(
        "--layer", nargs="+", type=layer, default=[], help=f"layers, or {ALL} (default: the last of each stack)"
    )
    parser.add_argument("--per-head", action="store_true", help="a picture for each head")
    parser.add_argument("--height", type=positive, default=280, help="pixels of each picture (default: %(default)s)")
    parser.add_overrides()
    return parser.parse_args(argv)


def point(text: str) -> tuple[float, float]:
    """X,Y for argparse."""
    try:
        x, y = map(float, text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text} is not X,Y, such as 0.5,0.3") from None
    return x, y


def layer(text: str) -> str:
    """A number or `ALL`, for argparse."""
    if text != ALL and not text.isdigit():
        raise argparse.ArgumentTypeError(f"{text} is no number of a layer, nor {ALL}")
    return text


if __name__ == "__main__":
    sys.exit(main())
