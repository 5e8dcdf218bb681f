"""Convert published weights to this package's layout, or its weights to the official DETR's or Hugging Face's.

    python tools/convert_checkpoint.py detr-r50-e632da11.pth detr_r50.pth
    python tools/convert_checkpoint.py output/model_final.pth detr.pth --to official
    python tools/convert_checkpoint.py output/model_final.pth detr_hf --to huggingface --config-file output/config.yaml

``MODEL.WEIGHTS`` reads every published layout as it is, folders of ``transformers`` as well; conversion is for other
programs and for keeping. For Hugging Face a folder is written, with config.json, model.safetensors and
preprocessor_config.json, that AutoModelForObjectDetection (of panoptic models AutoModelForImageSegmentation) and
AutoImageProcessor open. A config of which ``transformers`` has no such model is refused.
"""

import argparse
import sys
from collections.abc import Sequence

from ..checkpoint import convert_checkpoint
from ..command_line import ToolParser, command_line_tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument(
        "input", help="a file, a folder of transformers, a URL, or detectron2://...; the layout is recognised"
    )
    parser.add_argument("output", help="the .pth file to write, or the folder for huggingface")
    parser.add_argument("--to", choices=["detr_d2", "official", "huggingface"], default="detr_d2", help="what to write")
    parser.add_argument(
        "--class-ids",
        choices=["coco", "contiguous"],
        help="how the written class rows are indexed: by COCO category id (default of official) or contiguously "
        "(default of detr_d2, and always of huggingface)",
    )
    parser.add_argument(
        "--weights-from",
        choices=["auto", "ema", "model"],
        default="auto",
        help="of a file that holds both, the average of the weights (auto, ema) or those of the training (model)",
    )
    parser.add_argument("--half", action="store_true", help="write numbers with 16 bits: half the size (a .pth file)")
    parser.add_argument("--config-file", metavar="FILE", help="the model's yaml, which huggingface needs")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_overrides()
    return parser.parse_args(argv)


def check_args(args: argparse.Namespace) -> None:
    """Raise a ValueError for options that do not go together."""
    if args.to != "huggingface":
        if args.config_file or args.opts:
            raise ValueError(f"--config-file and overrides are for --to huggingface, not for {args.to}.")
    elif not args.config_file:
        raise ValueError("--to huggingface needs --config-file: weights do not say all that config.json does.")
    elif args.class_ids == "coco":
        raise ValueError("--to huggingface numbers classes contiguously: leave out --class-ids.")
    elif args.half:
        raise ValueError("--half is for .pth files: transformers reads a folder in any precision (its argument dtype).")


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_args(args)
    if args.to == "huggingface":
        print(to_huggingface(args))
    else:
        choices = {key: vars(args)[key] for key in ("class_ids", "weights_from", "half", "overwrite")}
        print(convert_checkpoint(args.input, args.output, to=args.to, **choices))
    return 0


def to_huggingface(args: argparse.Namespace) -> str:
    """Load the model of the config with the input's weights and write the folder."""
    from ..engine import load_config
    from ..engine.huggingface import save_for_huggingface

    opts = ["MODEL.WEIGHTS_FROM", args.weights_from, "MODEL.WEIGHTS", args.input, "MODEL.DEVICE", "cpu"]
    cfg = load_config(args.config_file, [*args.opts, *opts])
    return save_for_huggingface(cfg, args.output, overwrite=args.overwrite)


if __name__ == "__main__":
    sys.exit(main())
