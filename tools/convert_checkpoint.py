#!/usr/bin/env python
"""Convert published weights to this package's layout, or its weights to the official DETR's.

    python tools/convert_checkpoint.py detr-r50-e632da11.pth detr_r50.pth
    python tools/convert_checkpoint.py output/model_final.pth detr.pth --to official

``MODEL.WEIGHTS`` reads every published layout as it is; conversion is for other programs and for keeping.
"""

import argparse
import sys
from collections.abc import Sequence

from detr_d2.checkpoint import convert_checkpoint
from detr_d2.command_line import command_line_tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("input", help="a file, a URL, or a path such as detectron2://...; the layout is recognised")
    parser.add_argument("output", help="the .pth file to write")
    parser.add_argument("--to", choices=["detr_d2", "official"], default="detr_d2", help="layout to write")
    parser.add_argument(
        "--class-ids",
        choices=["coco", "contiguous"],
        help="how the written class rows are indexed: by COCO category id (default of official) or contiguously "
        "(default of detr_d2)",
    )
    parser.add_argument("--force", action="store_true", help="replace an existing output")
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print(convert_checkpoint(args.input, args.output, to=args.to, class_ids=args.class_ids, overwrite=args.force))
    return 0


if __name__ == "__main__":
    sys.exit(main())
