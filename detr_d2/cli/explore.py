"""Look at results in a browser: one HTML file with images, predictions of several models, errors, curves.

    python tools/explore.py output/quickstart --output explore.html
    python tools/explore.py detr=output/detr fcos=output/fcos/inference/shapes_val/coco_instances_results.json \\
        --dataset shapes_val --output explore.html
    python tools/explore.py output/run --json-file mine/val.json --image-root mine/images --output explore.html

An input, [LABEL=]PATH, is a coco_instances_results.json that evaluation wrote, or a folder that holds one: the output
folder of a training, whose first test set is the dataset unless one is named, or that of tools/compare.py, whose models
are all shown. The file needs neither a server nor a network; a key, ?, lists what it does.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..command_line import ToolParser, check_output, command_line_tool, positive
from ..data.checks import check_dataset_name
from ..data.datasets.coco_json import read_ground_truth
from ..engine import load_config
from ..engine.run_folder import evaluation_of
from ..explore.data import describe_images, describe_task
from ..explore.page import pack_page
from ..explore.pictures import embed
from ..explore.runs import Run, find_runs, training_curves
from ..files import read_json, whole_file
from .analyze_errors import read_truth

_MANY = 1000  # images from which on they are small unless --side says otherwise


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("inputs", nargs="+", metavar="[LABEL=]PATH", help="results, or folders that hold some")
    parser.add_argument("--dataset", default="", help="registered name of the dataset that was evaluated")
    parser.add_argument("--json-file", default="", help="in place of --dataset, its annotations in COCO's format")
    parser.add_argument("--image-root", default="", help="with --json-file, the folder of the images")
    parser.add_argument("--config-file", default="", help="config whose DATASETS.CUSTOM names the dataset")
    parser.add_argument("--output", required=True, type=Path, help="HTML file to write")
    parser.add_argument(
        "--side", type=positive, help=f"pixels of the embedded images' longer side (512; of more than {_MANY}, 128)"
    )
    return parser.parse_args(argv)


def read_dataset(args: argparse.Namespace) -> tuple[dict[str, Any], Path, str]:
    """Annotations, folder of images, and name."""
    if args.dataset:
        check_dataset_name(args.dataset)
        return *read_truth(args.dataset, "json_file"), args.dataset
    return read_ground_truth(args.json_file), Path(args.image_root), Path(args.json_file).stem


def collect(args: argparse.Namespace, runs: Sequence[Run]) -> tuple[dict[str, Any], list[str]]:
    """What the page shows, and the pictures."""
    truth, image_root, name = read_dataset(args)
    results = {run.label: read_results(run.results) for run in runs}
    tasks = [describe_task(truth, results, "bbox")]
    masked = {label: found for label, found in results.items() if all(result.get("segmentation") for result in found)}
    if masked := {label: found for label, found in masked.items() if found}:
        tasks.append(describe_task(truth, masked, "segm"))
    images = describe_images(truth)
    side = args.side or (512 if len(images) <= _MANY else 128)
    pictures = embed((image_root / image["file_name"] for image in images), side)
    commands = {
        run.label: f"python tools/analyze_errors.py --dataset {name} --input {run.results} --output errors"
        for run in runs
    }
    shown = {"dataset": name, "images": images, "tasks": tasks, "commands": commands}
    return {**shown, "curves": training_curves(runs)}, pictures


def read_results(path: Path) -> list[dict[str, Any]]:
    """Detections in COCO's format."""
    results = read_json(path)
    if not isinstance(results, list):
        raise ValueError(f"{path} is not in COCO's format of results, which is a list.")
    return results


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    first = Path(args.inputs[0].partition("=")[2] or args.inputs[0])
    if not args.dataset and not args.json_file and (first / "config.yaml").is_file():
        args.dataset = evaluation_of(first)[1]
    if bool(args.dataset) == bool(args.json_file) or bool(args.json_file) != bool(args.image_root):
        raise ValueError("Name the dataset: either --dataset, or --json-file and --image-root.")
    check_output(args.output, suffixes=(".html",))
    if args.config_file:
        load_config(args.config_file)  # which registers its datasets
    runs = find_runs(args.inputs, args.dataset)
    page = pack_page(*collect(args, runs))
    with whole_file(args.output) as partial:
        partial.write_text(page, encoding="utf-8")
    print(f"Written to {args.output}: {len(page) / 2**20:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
