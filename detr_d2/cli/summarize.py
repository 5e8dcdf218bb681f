"""What a training reached, from what is in its folder: figures by class, what was lost to which errors, pictures.

    python tools/summarize.py output/quickstart

train_net.py does this at its end, unless TEST.SUMMARY is False. Written to results/ in the folder: curves.png, truth
beside predictions (predictions.png), what analyze_errors.py writes of the first test set (errors.json, errors.png,
precision_recall.png, confusion_matrix.csv and .png, worst_images.png). errors.json holds the score with the best F1,
from which on demo.py draws what the folder's weights find.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from tabulate import tabulate

from ..command_line import ToolParser, check_output_folder, command_line_tool
from ..engine.run_folder import evaluation_of
from . import analyze_errors, plot_logs, visualize_results

# Classes up to which the block lists them.
LISTED = 20
COLUMNS = ("AP", "AP50", "precision", "recall")


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    print(summarize(args.run))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("run", type=Path, help="output folder of a training")
    return parser.parse_args(argv)


def summarize(run: Path) -> str:
    """Write the folder ``results`` of a run; gives the block for people.

    Raises:
        FileNotFoundError: the run has no config, or no predictions of any of its test sets.
        ValueError: predictions or annotations that cannot be analysed.
    """
    cfg, dataset, predictions = evaluation_of(run)
    folder = run / "results"
    check_output_folder(folder)
    folder.mkdir(exist_ok=True)
    if (run / "metrics.json").is_file():
        plot_logs.main.__wrapped__([str(run), "--output", str(folder / "curves.png")])
    boxes, segments = predictions / "coco_instances_results.json", predictions / "panoptic_predictions.json"
    shown = segments if segments.is_file() else boxes
    figures = analyze_errors.analyze_run(run, folder) if boxes.is_file() else {}
    threshold = ["--threshold", str(figures["threshold"])] if figures else []
    words = ["--input", str(shown), "--dataset", dataset, "--output", str(folder / "predictions.png"), *threshold]
    visualize_results.main.__wrapped__(words)
    return "\n".join([*_block(dataset, figures), *_what_next(run, cfg, folder)])


def _block(dataset: str, figures: dict[str, Any]) -> list[str]:
    if not figures:
        return [f"Results on {dataset}: the figures are in metrics.json."]
    count, threshold = figures["images"], figures["threshold"]
    head = f"Results on {dataset} ({count} images); precision and recall of scores from {threshold:.2f} on, IoU 0.5:"
    classes = figures["classes"]
    rows = [[row["name"], row["objects"], *(_number(row[key]) for key in COLUMNS)] for row in classes]
    together = ["all", figures["objects"], *(_number(figures[key]) for key in COLUMNS)]
    table = [*rows[: LISTED if len(rows) <= LISTED else 0], together]
    align = ("left", *["right"] * (len(COLUMNS) + 1))
    return [head, tabulate(table, ["class", "objects", *COLUMNS], disable_numparse=True, colalign=align)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _what_next(run: Path, cfg: CfgNode, folder: Path) -> list[str]:
    """Where the best weights and the pictures are, and the commands that most people want now."""
    names = [name for name in ("model_best.pth", "model_final.pth") if (run / name).is_file()]
    lines = [f"Pictures and tables: {folder}"]
    lines.append(f"All images in a browser: python tools/explore.py {run} --output {folder / 'explore.html'}")
    if names:
        weights, is_best = run / names[0], names[0] == "model_best.pth"
        lines.append(f"{f'Best weights ({cfg.TEST.BEST_METRIC})' if is_best else 'Weights'}: {weights}")
        lines.append(f"Use them: python tools/demo.py --weights {weights} --input IMAGES --output drawn")
    return lines


if __name__ == "__main__":
    sys.exit(main())
