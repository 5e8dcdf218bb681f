"""Draw training runs from their metrics.json: loss, accuracy, learning rate and the parts of the loss, over iterations,
images and time, several runs in one picture. A run may still be going on.

python tools/plot_logs.py output/quickstart --output curves.png
python tools/plot_logs.py output/run_a again=output/run_b --metric bbox/AP50 --over images time --output both.png
python tools/plot_logs.py output/run_a --losses 'loss_(ce|giou)' --output parts.pdf

Images are known where a config.yaml with SOLVER.IMS_PER_BATCH lies beside every metrics.json. Time is that of training,
without evaluation. Losses of decoder layers before the last (loss_ce_0, ...) are drawn faint.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..analysis.log_plots import AXES, LOSSES, METRICS, choose_losses, choose_metrics, plot_runs, read_runs
from ..command_line import ToolParser, check_output, command_line_tool
from ..files import whole_file

SUFFIXES = (".png", ".jpg", ".jpeg", ".pdf", ".svg")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "runs", nargs="+", metavar="[LABEL=]RUN", help="output folder of a training, or its metrics.json"
    )
    parser.add_argument(
        "--metric",
        action="append",
        default=[],
        help=f"what evaluation found, more than once for several (default: what there is of {', '.join(METRICS)})",
    )
    parser.add_argument("--over", nargs="+", choices=AXES, default=list(AXES), help="axes (default: all three)")
    parser.add_argument(
        "--losses",
        default=LOSSES,
        metavar="REGEX",
        help="parts of the loss whose names it matches (default: %(default)s); '' draws none",
    )
    parser.add_argument("--output", required=True, type=Path, help=f"picture to write, {', '.join(SUFFIXES)}")
    return parser.parse_args(argv)


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output(args.output, suffixes=SUFFIXES)
    runs = read_runs(args.runs)
    metrics = choose_metrics(runs, args.metric)
    losses = choose_losses(runs, args.losses) if args.losses else {}
    over = list(dict.fromkeys(args.over))
    unknown = [run.label for run in runs if run.batch_size is None]
    if unknown and "images" in over:
        print(f"No config.yaml states the batch size of {', '.join(unknown)}: iterations instead of images.")
        over = list(dict.fromkeys("iterations" if kind == "images" else kind for kind in over))
    if not metrics:
        print("No run has been evaluated yet.")
    figure = plot_runs(runs, over=over, metrics=metrics, losses=losses)
    with whole_file(args.output) as partial:
        figure.savefig(partial, dpi=110)
    return 0


if __name__ == "__main__":
    sys.exit(main())
