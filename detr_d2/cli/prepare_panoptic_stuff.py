"""Write the semantic maps of stuff that Panoptic FPN learns from: those of coco_2017_{train,val}_panoptic_separated, or
sem_seg_root of your own data (DATASETS.CUSTOM).

    python tools/prepare_panoptic_stuff.py
    python tools/prepare_panoptic_stuff.py --root /data --splits val2017
    python tools/prepare_panoptic_stuff.py --panoptic-json mine/panoptic.json --panoptic-root mine/panoptic \\
        --output mine/stuff

Below ROOT/coco it writes panoptic_stuff_SPLIT/*.png from annotations/panoptic_SPLIT.json and panoptic_SPLIT/*.png: all
of a split's maps, or none.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command_line import ToolParser, check_output_folder, command_line_tool, positive
from ..data.datasets.panoptic_stuff import write_panoptic_stuff

SPLITS = ("train2017", "val2017")


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    coco = args.root / "coco"
    jobs = [
        (coco / "annotations" / f"panoptic_{split}.json", coco / f"panoptic_{split}", coco / f"panoptic_stuff_{split}")
        for split in args.splits
    ]
    if args.panoptic_json:
        jobs = [(args.panoptic_json, args.panoptic_root, args.output)]
    for source, pngs, output in jobs:
        check_output_folder(output)
        count = write_panoptic_stuff(source, pngs, output, processes=args.processes)
        print(f"{output}: {count} maps")
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--root",
        type=Path,
        default=os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")),
        help="the datasets' folder; from the environment variable DETECTRON2_DATASETS where that is set (default: "
        "%(default)s)",
    )
    parser.add_argument(
        "--splits", nargs="+", default=SPLITS, metavar="SPLIT", help=f"which to write (default: {' '.join(SPLITS)})"
    )
    own = parser.add_argument_group("your own data, in place of COCO's; all three of them")
    own.add_argument("--panoptic-json", type=Path, metavar="FILE", help="annotations in COCO's panoptic format")
    own.add_argument("--panoptic-root", type=Path, metavar="FOLDER", help="of their PNGs")
    own.add_argument("--output", type=Path, metavar="FOLDER", help="of the maps")
    parser.add_argument(
        "--processes",
        type=positive,
        default=os.cpu_count() or 1,
        metavar="N",
        help="that share the work (default: %(default)s, one a core)",
    )
    args = parser.parse_args(argv)
    if len({bool(path) for path in (args.panoptic_json, args.panoptic_root, args.output)}) > 1:
        parser.error("--panoptic-json, --panoptic-root and --output come together")
    return args


if __name__ == "__main__":
    sys.exit(main())
