"""Tell what is wrong with predictions: what each kind of error costs, which classes are confused, the worst images.

    python tools/analyze_errors.py --dataset shapes_val --output output/errors \
        --input output/quickstart/inference/shapes_val/coco_instances_results.json
    python tools/analyze_errors.py --dataset shapes_val --output output/segment_errors \
        --input output/quickstart/inference/shapes_val/panoptic_predictions.json

The input is what evaluation wrote (tools/train_net.py --eval-only writes it, too), or the output folder of a training,
whose first test set is taken. Boxes and masks: false detections
are sorted by their IoU with objects (TIDE, Bolya et al. 2020), each kind is repaired alone, and the AP50 that this adds
is what it costs. Panoptic segments: the same for PQ.

Written to the folder --output: errors.json (all figures), errors.png (what each kind costs), precision_recall.png (with
F1 over the score; not of segments), confusion_matrix.csv and .png (rows are what there is, columns what was said),
worst_images.png (ground truth beside predictions, coloured by kind of error).
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from detectron2.data import MetadataCatalog
from tqdm import tqdm

from ..analysis.confusion import to_csv
from ..analysis.error_plots import plot_confusion, plot_losses, plot_precision_recall
from ..analysis.errors import ERROR_KINDS
from ..analysis.report import Report, analyze_detections, analyze_segments
from ..analysis.segments import find_segment_errors
from ..analysis.sheets import (
    image_weights,
    make_error_sheet,
    object_row,
    segment_row,
    segment_weights,
    shown_kinds,
    worst_images,
)
from ..command_line import ToolParser, check_output_folder, command_line_tool, write_picture
from ..data.checks import check_dataset_name, readable_annotations
from ..data.datasets.coco_json import read_coco_json, read_ground_truth
from ..engine import load_config
from ..engine.run_folder import evaluation_of
from ..files import read_json, whole_file


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "--input", required=True, type=Path, help="coco_instances_results.json, panoptic_predictions.json, a run"
    )
    parser.add_argument("--dataset", default="", help="registered name of the dataset that was evaluated")
    parser.add_argument("--output", required=True, type=Path, help="folder to write to")
    parser.add_argument("--config-file", default="", help="config whose DATASETS.CUSTOM names the dataset")
    parser.add_argument(
        "--task", choices=("bbox", "segm"), default="bbox", help="boxes or masks (default: %(default)s)"
    )
    parser.add_argument(
        "--threshold",
        type=float,
        help="least score of what is counted in the confusion matrix and shown (default: that of the best F1)",
    )
    parser.add_argument("--worst", type=int, default=12, help="images on the sheet; 0: none (default: %(default)s)")
    parser.add_argument(
        "--worst-by",
        nargs="+",
        choices=ERROR_KINDS,
        default=ERROR_KINDS,
        metavar="KIND",
        help=f"errors of boxes or masks that rank the images, of {', '.join(ERROR_KINDS)} (default: all)",
    )
    parser.add_argument("--columns", type=int, default=2, help="images side by side (default: %(default)s)")
    parser.add_argument("--height", type=int, default=240, help="pixels of each picture (default: %(default)s)")
    return parser.parse_args(argv)


def analyze_boxes(args: argparse.Namespace, results: list[dict[str, Any]]) -> tuple[Report, np.ndarray | None]:
    """The report, and the sheet of the worst images where there are any."""
    truth, image_root = read_truth(args.dataset, "json_file")
    errors, threshold, report = analyze_detections(
        truth, results, args.task, threshold=args.threshold, progress=progress("matching")
    )
    weights = image_weights(errors, threshold, args.worst_by)
    names = {image["id"]: str(image_root / image["file_name"]) for image in truth["images"]}
    image_ids = errors.scenes.image_ids.tolist()
    rows = {
        place: partial(
            *(object_row, errors, place, names[image_ids[place]], threshold, args.task),
            *((truth["annotations"], results), args.height),
        )
        for place in worst_images(weights, args.worst).tolist()
    }
    report.figures["worst_images"] = [
        {"image_id": image_ids[place], "file_name": names[image_ids[place]], "weight": weights[place]} for place in rows
    ]
    return report, sheet_of(list(rows.values()), shown_kinds(errors), args.columns)


def analyze_panoptic(args: argparse.Namespace, predictions: dict[str, Any]) -> tuple[Report, np.ndarray | None]:
    """The same for panoptic predictions, whose PNGs lie in the folder that is named as their JSON."""
    truth, image_root = read_truth(args.dataset, "panoptic_json")
    roots = Path(MetadataCatalog.get(args.dataset).panoptic_root), args.input.with_suffix("")
    errors = find_segment_errors(truth, roots[0], predictions, roots[1], progress("matching"))
    report = analyze_segments(errors)
    weights = segment_weights(errors)
    names = {image["id"]: str(image_root / image["file_name"]) for image in truth["images"]}
    maps = [
        {a["image_id"]: root / a["file_name"] for a in x["annotations"]}
        for root, x in zip(roots, (truth, predictions), strict=True)
    ]
    image_ids = errors.image_ids.tolist()
    rows = {}
    for place in worst_images(weights, args.worst).tolist():
        image_id = image_ids[place]
        rows[place] = partial(
            segment_row, errors, place, names[image_id], tuple(m[image_id] for m in maps), args.height
        )
    report.figures["worst_images"] = [
        {"image_id": image_ids[place], "file_name": names[image_ids[place]], "weight": weights[place]} for place in rows
    ]
    return report, sheet_of(list(rows.values()), ("correct", "classification", "missed", "background"), args.columns)


def read_truth(dataset: str, key: str) -> tuple[dict[str, Any], Path]:
    """The dataset's annotations, and the folder of its images.

    Raises:
        ValueError: it has no annotations in this format.
        OSError: they cannot be read.
    """
    metadata = MetadataCatalog.get(dataset)
    if not metadata.get(key) or metadata.get("image_root") is None:
        raise ValueError(f"dataset {dataset!r} has no {key} with an image_root: its annotations are in another format.")
    with readable_annotations(dataset):
        if key == "json_file":
            return read_ground_truth(metadata.json_file), Path(metadata.image_root)
        return read_coco_json(metadata.get(key), is_panoptic=True).require_classes().content, Path(metadata.image_root)


def read_predictions(path: Path) -> list[dict[str, Any]] | dict[str, Any]:
    """Detections (a list), or panoptic predictions (a dict)."""
    predictions = read_json(path)
    if isinstance(predictions, list) or (
        isinstance(predictions, dict) and isinstance(predictions.get("annotations"), list)
    ):
        return predictions
    raise ValueError(f"{path} is neither in COCO's format of results, a list, nor in that of panoptic predictions.")


def sheet_of(rows: list[partial], kinds: Iterable[str], columns: int) -> np.ndarray | None:
    """The sheet of the rows; None where there are none."""
    return make_error_sheet(tqdm(rows, desc="drawing", disable=None), list(kinds), columns) if rows else None


def progress(name: str) -> partial:
    """What wraps a loop in a bar."""
    return partial(tqdm, desc=name, disable=None)


def write(report: Report, sheet: np.ndarray | None, folder: Path) -> None:
    """All files, each as a whole."""
    texts = {
        "errors.json": json.dumps(report.figures, indent=1, default=np.generic.item) + "\n",
        "confusion_matrix.csv": to_csv(report.matrix, report.names),
    }
    figures = {
        "errors.png": plot_losses(report.lost, report.counts, report.unit, report.title),
        "confusion_matrix.png": plot_confusion(report.matrix, report.names, report.title),
    }
    if report.errors is not None:
        figures["precision_recall.png"] = plot_precision_recall(
            report.errors, report.figures["threshold"], report.title
        )
    for name, text in texts.items():
        with whole_file(folder / name) as partial_file:
            partial_file.write_text(text)
    for name, figure in figures.items():
        with whole_file(folder / name) as partial_file:
            figure.savefig(partial_file, dpi=110)
    if sheet is not None:
        write_picture(folder / "worst_images.png", sheet)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.input.is_dir():
        _, args.dataset, folder = evaluation_of(args.input)
        args.input = folder / "coco_instances_results.json"
    elif not args.dataset:
        raise ValueError("--dataset is missing: name what was evaluated, or a training's folder in --input.")
    if args.columns < 1 or args.height < 1 or args.worst < 0:
        raise ValueError("--columns and --height must be at least 1, --worst at least 0.")
    if args.config_file:
        load_config(args.config_file)  # which registers its datasets
    check_dataset_name(args.dataset)
    if args.output.is_file():
        raise NotADirectoryError(f"{args.output} is a file; name a folder to write to.")
    check_output_folder(args.output)
    predictions = read_predictions(args.input)
    analyze = analyze_panoptic if isinstance(predictions, dict) else analyze_boxes
    report, sheet = analyze(args, predictions)
    write(report, sheet, args.output)
    print(f"{report.text}\n\nWritten to {args.output}")
    return 0


def analyze_run(run: Path, output: Path) -> dict[str, Any]:
    """What the command writes of the boxes in a training's folder, without a word; gives the figures of errors.json."""
    args = parse_args(["--input", str(run), "--output", str(output)])
    _, args.dataset, folder = evaluation_of(run)
    report, sheet = analyze_boxes(args, read_predictions(folder / "coco_instances_results.json"))
    write(report, sheet, output)
    return report.figures


if __name__ == "__main__":
    sys.exit(main())
