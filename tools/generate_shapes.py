#!/usr/bin/env python
"""Generate the Shapes data set: COCO instances, panoptic and semantic segmentation of drawn images."""

import argparse
import logging
import os
import sys

from detr_d2.data.datasets.shapes_generator import generate_shapes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Generate the Shapes data set in ROOT/shapes, registered as shapes_train and shapes_val (and "
        "..._separated for Panoptic FPN). The same seed gives the same bytes. A split that is there already with the "
        "same parameters is kept.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--root",
        default=os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")),
        help="the data sets' folder; from the environment variable DETECTRON2_DATASETS where that is set",
    )
    parser.add_argument(
        "--train", type=int, metavar="N", default=4000, help="training images; 0: leave the split alone"
    )
    parser.add_argument("--val", type=int, metavar="N", default=300, help="validation images; 0: leave the split alone")
    parser.add_argument("--seed", type=int, metavar="S", default=0, help="0 <= S < 2^32")
    parser.add_argument("--overwrite", action="store_true", help="replace splits made with other parameters")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when every split asked for is there, complete; otherwise 1 (130 if interrupted) and one line."""
    args = parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        for split, num_images in (("train", args.train), ("val", args.val)):
            if num_images != 0:
                generate_shapes(args.root, split=split, num_images=num_images, seed=args.seed, overwrite=args.overwrite)
    except (OSError, ValueError) as error:
        print(f"generate_shapes.py: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("generate_shapes.py: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
