"""Write a trained model as an ONNX file or as a torch.export program, which run without Detectron2.

    python tools/export.py --config-file configs/COCO-Detection/detr_R_50_500ep.yaml --format onnx --dynamic-size \\
        --output detr.onnx --check-dataset coco_2017_val --num 4 MODEL.WEIGHTS detr-r50-e632da11.pth
    python tools/run_onnx.py detr.onnx image.jpg --output drawn.png

The file takes "images" (batch x 3 x height x width, fp32, 0..255, RGB or BGR as its metadata says, each image at the
upper left, resized by the caller) and "sizes" (batch x 2, int64, each image's height and width), and gives "boxes"
(left, top, right, bottom in pixels of the resized image), "scores" and "classes". Panoptic models also give "masks",
logits at a stride of the image; FCOS gives candidates before non-maximum suppression, of which those with score 0 are
none. tools/run_onnx.py does all of this. Class names and the preprocessing lie in the file's metadata. The file is kept
only if its detections are the model's, on images in which the model finds something.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog

from ..command_line import ToolParser, check_output, command_line_tool
from ..data.checks import check_dataset_name
from ..engine import load_config, prepare_device
from ..export import FORMATS, ExportSettings, export_model


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("--config-file", required=True, help="config of the model")
    parser.add_argument("--format", required=True, choices=list(FORMATS), help="what to write")
    parser.add_argument("--output", required=True, type=Path, help="file to write, ending in .onnx or .pt2")
    parser.add_argument(
        "--size",
        type=int,
        nargs=2,
        metavar=("H", "W"),
        help="height and width of the batch, into which images are to be fitted (default: the square of models of "
        "squares, else the largest landscape of the config's INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST)",
    )
    parser.add_argument("--dynamic-size", action="store_true", help="take any height and width; not Deformable DETR")
    parser.add_argument("--batch", type=batch_size, default=None, help="images, or 'dynamic' for any number (default)")
    parser.add_argument(
        "--max-detections",
        type=int,
        help="of panoptic models: boxes and masks of so many queries, the highest-scoring (all)",
    )
    parser.add_argument(
        "--opset",
        type=int,
        choices=range(17, 21),
        help="version of ONNX's operators (default: 18)",
    )
    parser.add_argument(
        "--check", nargs="+", default=[], type=Path, metavar="IMAGE", help="images with objects to compare on (noise)"
    )
    parser.add_argument("--check-dataset", default="", help="dataset on whose first images to compare")
    parser.add_argument("--num", type=int, default=4, help="how many of them (default: %(default)s)")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1e-4,
        help="largest difference to the model, of scores and, in parts of the image's side, of boxes (default: "
        "%(default)s)",
    )
    parser.add_overrides()
    return parser.parse_args(argv)


def batch_size(text: str) -> int | None:
    return None if text == "dynamic" else int(text)


def images_to_check(args: argparse.Namespace) -> list[Path]:
    images = list(args.check)
    if args.check_dataset:
        check_dataset_name(args.check_dataset)
        images += [Path(item["file_name"]) for item in DatasetCatalog.get(args.check_dataset)[: max(1, args.num)]]
    return images


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output(args.output, suffixes=[FORMATS[args.format].suffix])
    cfg = load_config(args.config_file, args.opts)
    cfg.MODEL.DEVICE = "cpu"  # where onnxruntime is to agree with it; a program may be moved to GPUs
    prepare_device(cfg)
    settings = ExportSettings(
        format=args.format,
        size=tuple(args.size) if args.size else None,
        batch=args.batch,
        dynamic_size=args.dynamic_size,
        max_detections=args.max_detections,
        tolerance=args.tolerance,
        opset=args.opset,
    )
    export_model(cfg, args.output, settings, images_to_check(args), say=lambda line: print(line, flush=True))
    print(f"wrote {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
