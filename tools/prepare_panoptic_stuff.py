#!/usr/bin/env python
"""Write the semantic maps that coco_2017_{train,val}_panoptic_separated need, for Panoptic FPN."""

import argparse
import os
import sys
from pathlib import Path

from detr_d2.data.datasets.panoptic_stuff import write_panoptic_stuff

SPLITS = ("train2017", "val2017")


def main(argv: list[str] | None = None) -> int:
    """Exit status: 0 when every split is written, else 1 and one line that says why."""
    parser = argparse.ArgumentParser(
        description="Below ROOT/coco, write panoptic_stuff_<split>/*.png from annotations/panoptic_<split>.json and "
        "panoptic_<split>/*.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--root",
        type=Path,
        default=os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")),
        help="the data sets' folder; from the environment variable DETECTRON2_DATASETS where that is set",
    )
    parser.add_argument("--splits", nargs="+", default=SPLITS, metavar="SPLIT", help="which to write")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, metavar="N")
    args = parser.parse_args(argv)
    coco = args.root / "coco"
    try:
        for split in args.splits:
            source, output = coco / "annotations" / f"panoptic_{split}.json", coco / f"panoptic_stuff_{split}"
            count = write_panoptic_stuff(source, coco / f"panoptic_{split}", output, processes=args.processes)
            print(f"{output}: {count} maps")
    except (OSError, ValueError) as error:
        print(f"prepare_panoptic_stuff.py: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
