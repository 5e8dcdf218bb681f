"""Draw what a model sees: images of a dataset with their boxes, masks, panoptic segments and semantic maps as the
mapper of a config hands them over, flipped, cropped and resized.

    python tools/visualize_data.py --config-file configs/Shapes/panoptic_detr_R_18.yaml --output seen.jpg
    python tools/visualize_data.py --config-file configs/COCO-Detection/detr_R_50_300ep.yaml --dataset coco_2017_val \\
        --num 4 --repeat 3 --output seen.jpg

--output is a picture (.png, .jpg) for one sheet, or a folder for one file an image. Images are drawn at random from the
dataset; the same --seed gives the same images with the same augmentation. Boxes of stuff are dashed. With --test the
mapper of evaluation runs, which passes on the image and no annotations.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from detectron2.utils.env import seed_all_rng
from tqdm import tqdm

from ..command_line import (
    PICTURE_SUFFIXES,
    ToolParser,
    check_output,
    check_output_folder,
    command_line_tool,
    positive,
    write_picture,
)
from ..data import build_dataset_mapper, evaluation_images, training_images
from ..engine import load_config
from ..files import whole_files
from ..visualization.model_input import InputDrawer, describe_input
from ..visualization.sheet import fit_height, make_sheet, with_title


def draw_inputs(cfg: CfgNode, args: argparse.Namespace) -> Iterator[tuple[str, np.ndarray]]:
    """Name and picture of each image that the mapper gives, ``args.repeat`` of one image after another."""
    name = (cfg.DATASETS.TEST if args.test else cfg.DATASETS.TRAIN)[0]
    images = evaluation_images(cfg, name) if args.test else training_images(cfg)
    mapper, drawer = build_dataset_mapper(cfg, is_train=not args.test), InputDrawer(cfg, name)
    seed_all_rng(args.seed)
    chosen = np.random.default_rng(args.seed).permutation(len(images))[: args.num]
    skipped = 0
    for place, index in enumerate(tqdm(chosen.tolist(), unit="image", disable=None)):
        stem = Path(images[index]["file_name"]).stem
        for repeat in range(args.repeat):
            item = mapper(images[index])
            if item is None:  # INPUT.SKIP_UNREADABLE_IMAGES
                skipped += 1
                break
            picture = fit_height(drawer.draw(item, args.height), args.height)
            count = f"_{repeat}" if args.repeat > 1 else ""
            yield f"{place:04}_{stem}{count}", with_title(picture, stem, describe_input(item))
    if skipped == len(chosen):
        raise ValueError(f"None of {skipped} images of {name} can be read; the log above says why.")
    if skipped:
        print(f"{skipped} of {len(chosen)} images cannot be read and are left out, as in training.", file=sys.stderr)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    is_sheet = bool(args.output.suffix) and not args.output.is_dir()
    if is_sheet:
        check_output(args.output, suffixes=PICTURE_SUFFIXES)
    else:
        check_output_folder(args.output)
    cfg = load_config(args.config_file, args.opts)
    if args.dataset:
        cfg.DATASETS["TEST" if args.test else "TRAIN"] = (args.dataset,)
    if not (cfg.DATASETS.TEST if args.test else cfg.DATASETS.TRAIN):
        raise ValueError(f"{args.config_file} names no dataset: name one with --dataset.")
    pictures = draw_inputs(cfg, args)
    if is_sheet:
        columns = args.columns or (args.repeat if args.repeat > 1 else 4)
        write_picture(args.output, make_sheet([picture for _, picture in pictures], columns))
        return 0
    with whole_files(args.output) as folder:
        for name, picture in pictures:
            write_picture(folder / f"{name}.png", picture)
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("--config-file", required=True, help="config whose mapper, augmentation and classes are used")
    parser.add_argument("--output", required=True, type=Path, help="picture of all, or a folder for one PNG an image")
    parser.add_argument("--dataset", default="", help="dataset (default: the first of DATASETS.TRAIN, or TEST)")
    parser.add_argument("--test", action="store_true", help="the mapper of evaluation instead of training")
    parser.add_argument("--num", type=positive, default=12, help="images (default: %(default)s)")
    parser.add_argument("--repeat", type=positive, default=1, help="augmentations of each image (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of images and augmentation (default: %(default)s)")
    parser.add_argument("--columns", type=positive, help="of the sheet (default: --repeat where it is above 1, else 4)")
    parser.add_argument("--height", type=positive, default=320, help="pixels of each image (default: %(default)s)")
    parser.add_overrides("overrides of the config, such as INPUT.CROP.ENABLED True")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
