"""List every problem of a dataset in COCO's formats, with file and id, and summarize its classes and sizes.

    python tools/check_dataset.py --json-file mine/train.json --image-root mine/images
    python tools/check_dataset.py --json-file mine/train.json --image-root mine/images \\
        --panoptic-json mine/panoptic_train.json --panoptic-root mine/panoptic --plots output/plots
    python tools/check_dataset.py --config-file configs/Custom/detr_R_50.yaml --output-json output/report.json
    python tools/check_dataset.py coco_2017_val

With --config-file every dataset of its DATASETS.TRAIN and DATASETS.TEST is checked against the model as well: number
of classes, objects of an image, masks. KEY VALUE overrides such as INPUT.DROP_DEGENERATE_BOXES True decide, with or
without a config, what is an error.

Errors would end training, or evaluation on a dataset that only DATASETS.TEST names; warnings list what would be left
out. Exit status: 0 where both would run on all of the datasets, else 1.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..command_line import ToolParser, check_output, check_output_folder, command_line_tool
from ..data.checks import Demands, check_dataset_name, check_same_classes, check_test_classes
from ..data.dataset_report import DatasetReport, report_dataset
from ..data.datasets.custom import CustomDataset
from ..engine import load_config
from ..files import whole_file


def registered(name: str) -> CustomDataset:
    """The files of a registered dataset, from its metadata."""
    check_dataset_name(name)
    metadata = MetadataCatalog.get(name)
    entry = {key: metadata.get(key) for key in CustomDataset._fields[1:]}
    if not entry["json_file"] or not entry["image_root"]:
        raise ValueError(f"dataset {name!r} is not in COCO's format: its metadata has no json_file and image_root.")
    return CustomDataset.of({"name": name, **entry})


def datasets_of(args: argparse.Namespace) -> tuple[list[CustomDataset], CfgNode]:
    """What a command line asks for."""
    for first, second in (("json_file", "image_root"), ("panoptic_json", "panoptic_root")):
        if bool(getattr(args, first)) != bool(getattr(args, second)):
            raise ValueError(f"--{first} and --{second} come together.".replace("_", "-"))
    if args.panoptic_json and not args.json_file:
        raise ValueError("--panoptic-json needs --json-file, which lists the images, and --image-root.")
    cfg = load_config(args.config_file, args.opts)
    datasets = [registered(name) for name in args.names]
    if args.json_file:
        files = {key: getattr(args, key) for key in ("json_file", "image_root", "panoptic_json", "panoptic_root")}
        datasets.append(CustomDataset.of({"name": Path(args.json_file).stem, **files}))
    if args.config_file and not datasets:
        datasets = [registered(name) for name in dict.fromkeys([*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST])]
    if not datasets:
        raise ValueError("name a dataset, or --json-file with --image-root, or --config-file.")
    return datasets, cfg


def classes_agree(cfg: CfgNode) -> bool:
    """Whether the datasets of one model have its classes; prints what differs."""
    try:
        check_same_classes(cfg, cfg.DATASETS.TRAIN)
        for name in cfg.DATASETS.TEST:
            check_test_classes(cfg, name)
    except ValueError as error:
        print(f"error: classes-differ: {error}")
        return False
    return True


def bar_of(name: str) -> Callable[[int], Callable[[], object]]:
    """A progress bar over the files of a dataset, on a terminal."""
    return lambda total: tqdm(total=total, desc=name, unit="file", dynamic_ncols=True, disable=None).update


def write(reports: list[DatasetReport], args: argparse.Namespace) -> None:
    """The files that a command line asks for."""
    if args.output_json:
        with whole_file(args.output_json) as partial:
            partial.write_text(json.dumps({"datasets": [report.as_dict() for report in reports]}, indent=1))
    for report in reports if args.plots else ():
        from ..data.dataset_report.plots import plot_summary  # matplotlib is slow to import

        if report.summary:
            name = re.sub(r"[^\w.-]", "_", report.dataset.name)
            with whole_file(args.plots / f"{name}.png") as partial:
                plot_summary(report.dataset.name, report.summary).savefig(partial, dpi=100)


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="registered datasets")
    parser.add_overrides()
    parser.add_argument("--json-file", default="", help="boxes and masks in COCO's format")
    parser.add_argument("--image-root", default="", help="folder of its images")
    parser.add_argument("--panoptic-json", default="", help="annotations of the same images in COCO's panoptic format")
    parser.add_argument("--panoptic-root", default="", help="folder of their PNGs")
    parser.add_argument("--config-file", default="", help="config whose datasets are checked for its model")
    parser.add_argument("--no-images", action="store_true", help="list the image files, but do not decode them")
    threads = os.cpu_count() or 1
    parser.add_argument("--threads", type=int, default=threads, help="images decoded at once (default: %(default)s)")
    parser.add_argument("--output-json", type=Path, help="file to write the report to")
    parser.add_argument("--plots", type=Path, metavar="FOLDER", help="write NAME.png: classes, sizes, objects, images")
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.threads < 1:
        raise ValueError(f"--threads is {args.threads}; at least one decodes.")
    if args.output_json:
        check_output(args.output_json, suffixes=(".json",))
    if args.plots:
        check_output_folder(args.plots)
    datasets, cfg = datasets_of(args)
    reports = []
    for dataset in datasets:
        only_tests = bool(args.config_file) and dataset.name in set(cfg.DATASETS.TEST) - set(cfg.DATASETS.TRAIN)
        demands = Demands.of(cfg, is_train=not only_tests, of_model=bool(args.config_file))
        how = {"decode": not args.no_images, "processes": args.threads, "progress": bar_of(dataset.name)}
        reports.append(report_dataset(dataset, demands, **how))
        print(reports[-1], end="\n\n")
    write(reports, args)
    agree = not args.config_file or classes_agree(cfg)
    return 0 if agree and all(report.trains for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main())
