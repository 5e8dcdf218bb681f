"""Generate the Shapes dataset: COCO instances, panoptic and semantic segmentation of drawn images.

    python tools/generate_shapes.py
    python tools/generate_shapes.py --root /data --train 1000 --val 100 --seed 7

It goes to ROOT/shapes and is registered as shapes_train and shapes_val (and ..._separated for Panoptic FPN). The same
seed gives the same bytes. A split that is there already with the same parameters is kept.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from ..command_line import ToolParser, command_line_tool
from ..data.datasets.shapes_generator import generate_shapes


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--root",
        default=os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")),
        help="the datasets' folder; from the environment variable DETECTRON2_DATASETS where that is set (default: "
        "%(default)s)",
    )
    for split, number, text in (("train", 4000, "training"), ("val", 300, "validation")):
        text += " images; 0: leave the split alone (default: %(default)s)"
        parser.add_argument(f"--{split}", type=int, metavar="N", default=number, help=text)
    text = "of the pictures, 0 <= S < 2^32 (default: %(default)s)"
    parser.add_argument("--seed", type=int, metavar="S", default=0, help=text)
    parser.add_argument("--overwrite", action="store_true", help="replace splits made with other parameters")
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    for split, num_images in (("train", args.train), ("val", args.val)):
        if num_images != 0:
            generate_shapes(args.root, split=split, num_images=num_images, seed=args.seed, overwrite=args.overwrite)
    return 0


if __name__ == "__main__":
    sys.exit(main())
