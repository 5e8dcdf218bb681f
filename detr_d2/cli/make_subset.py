"""Take some categories out of a dataset in COCO's formats, and split their images into training and validation.

    python tools/make_subset.py --json-file coco/annotations/instances_train2017.json --image-root coco/train2017 \\
        --categories person tie motorcycle --output datasets/custom
    python tools/make_subset.py --json-file coco/annotations/instances_train2017.json --image-root coco/train2017 \\
        --panoptic-json coco/annotations/panoptic_train2017.json --panoptic-root coco/panoptic_train2017 \\
        --categories person tie sky-other-merged --output datasets/custom_panoptic

It writes train.json, val.json and images/; of panoptic annotations panoptic_train.json, panoptic_val.json and
panoptic/, too, where all other segments become void. Images without any of the categories are left out; categories
keep their ids.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ..command_line import ToolParser, check_output_folder, command_line_tool
from ..data.datasets.custom import CustomDataset
from ..data.subset import Subset, make_subset


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("--json-file", required=True, help="boxes and masks in COCO's format")
    parser.add_argument("--image-root", required=True, help="folder of its images")
    parser.add_argument("--panoptic-json", default="", help="annotations of the same images in COCO's panoptic format")
    parser.add_argument("--panoptic-root", default="", help="folder of their PNGs")
    parser.add_argument("--categories", required=True, nargs="+", metavar="NAME", help="names or ids, things and stuff")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="to make; must not be there yet")
    parser.add_argument(
        "--val-share", type=float, default=0.2, help="of the images, to validate on (default: %(default)s)"
    )
    parser.add_argument("--max-images", type=int, metavar="N", help="take at most so many (default: all)")
    parser.add_argument("--seed", type=int, default=0, help="of the random split (default: %(default)s)")
    parser.add_argument("--link", action="store_true", help="link the images instead of copying them")
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    files = {key: getattr(args, key) for key in ("json_file", "image_root", "panoptic_json", "panoptic_root")}
    if bool(args.panoptic_json) != bool(args.panoptic_root):
        raise ValueError("--panoptic-json and --panoptic-root come together.")
    source = CustomDataset.of({"name": "subset", **files})
    check_output_folder(args.output.absolute().parent)
    subset = Subset(args.categories, args.val_share, args.max_images, args.seed, args.link)
    with tqdm(unit="image", dynamic_ncols=True, disable=None) as bar:

        def advance(total: int) -> None:
            bar.total = total
            bar.update(1)

        counts = make_subset(source, subset, args.output.absolute(), advance)
    print(f"{args.output}: {counts['train']} images to train on, {counts['val']} to validate on")
    return 0


if __name__ == "__main__":
    sys.exit(main())
