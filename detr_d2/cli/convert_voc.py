"""Convert a dataset in Pascal VOC's format to COCO's: train.json, val.json and others, one a list of ImageSets/Main.

    python tools/convert_voc.py --input BCCD_Dataset/BCCD --categories RBC WBC Platelets --output datasets/bccd

The input holds Annotations/*.xml, JPEGImages/ and ImageSets/Main/*.txt. Corners of VOC are pixels, counted from 1, that
belong to the box. Boxes of one pixel are left out and counted. Images are not copied: name JPEGImages as image_root, or
link it.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from ..command_line import ToolParser, check_output_folder, command_line_tool
from ..data.voc import read_voc
from ..files import whole_file


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("--input", required=True, type=Path, metavar="FOLDER", help="that holds Annotations/")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="of the JSON files")
    parser.add_argument(
        "--categories", nargs="+", required=True, metavar="NAME", help="in the order of their ids, from 1"
    )
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output_folder(args.output)
    lists = sorted((args.input / "ImageSets" / "Main").glob("*.txt"))
    if not lists:
        raise FileNotFoundError(f"{args.input / 'ImageSets' / 'Main'} holds no list of images (*.txt).")
    for path in lists:
        dataset, left_out = read_voc(args.input / "Annotations", path, args.categories)
        with whole_file(args.output / f"{path.stem}.json") as partial:
            partial.write_text(json.dumps(dataset))
        counts = f"{len(dataset['images'])} images, {len(dataset['annotations'])} boxes"
        print(f"{args.output / path.stem}.json: {counts}, {left_out} boxes of one pixel left out")
    return 0


if __name__ == "__main__":
    sys.exit(main())
