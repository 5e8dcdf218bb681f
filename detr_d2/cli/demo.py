"""Run a trained model on images, videos or a camera, and draw or write what it finds.

    python tools/demo.py --weights output/quickstart/model_final.pth --input photos/ --output drawn/
    python tools/demo.py --config-file configs/COCO-Detection/detr_R_50_500ep.yaml --weights detr-r50-e632da11.pth \\
        --input "photos/*.jpg" clip.mp4 --output drawn/ --json results.json --batch-size 4 --amp
    python tools/demo.py --weights output/quickstart/model_final.pth --webcam 0 --window
    python tools/demo.py --onnx detr.onnx --input photos/ --output drawn/

Any model of this package or of Detectron2. --weights alone is a checkpoint with config.yaml beside it, as training
leaves it. --onnx is a file of tools/export.py, which onnxruntime runs on the CPU. Inputs are images, videos, folders of
these, and globs. What cannot be read is named and skipped; the exit status is 0 only if everything was processed. No
output is left half-written.

torchrun and srun start several processes, which share the inputs and give the results of one. Killed, the same command
goes on where it stopped (docs/launching.md):

    torchrun --nproc-per-node 8 tools/demo.py --weights ... --input photos/ --json results.json
"""

import argparse
import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.utils import comm
from tqdm import tqdm

from ..command_line import ToolParser, command_line_tool, one_line, positive
from ..demo.inputs import Source, find_sources
from ..demo.json_sinks import CocoJson, JsonSink, PanopticJson
from ..demo.onnx import OnnxPredictor
from ..demo.outputs import Pictures, Sink, Window, choose_targets
from ..demo.parts import Parts
from ..demo.run import Demo
from ..engine import Predictor, described_group, launch
from ..files import read_json
from ..visualization.predictions import SHOWS


def report(line: str) -> None:
    """One line on stderr, above the bar."""
    tqdm.write(f"demo.py: {line}", file=sys.stderr)


def load(args: argparse.Namespace) -> Predictor | OnnxPredictor:
    """The model that a command line names. Masks of instances that will not be shown are not computed."""
    if args.onnx:
        return load_onnx(args.onnx, args.threshold)
    opts = ["MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE", args.threshold, *args.opts]
    keywords = {"opts": opts, "device": args.device, "batch_size": args.batch_size, "amp": args.amp}
    if args.config_file:
        return Predictor(args.config_file, args.weights, **keywords)
    return Predictor(args.weights, **keywords)


def load_onnx(path: Path, threshold: float) -> OnnxPredictor:
    """A file of ``tools/export.py``.

    Raises:
        ValueError, FileNotFoundError: it is none, or onnxruntime is not installed.
    """
    try:
        from . import run_onnx
    except ImportError as error:
        raise ValueError("--onnx needs onnxruntime, not installed: pip install onnxruntime") from error
    try:
        detector = run_onnx.Detector(str(path))
    except tuple(run_onnx.onnxruntime_errors()) as error:
        raise ValueError(f"{path} cannot be run: {one_line(error)}") from error
    return OnnxPredictor(detector, detector.facts["class_names"], threshold)


def open_sinks(args: argparse.Namespace, sources: Sequence[Source]) -> list[Sink]:
    """Where the results go; an error for what could not be written."""
    folder = args.panoptic_json and args.panoptic_json.with_suffix("")
    paths = [path.absolute() for path in (args.output, args.json, args.panoptic_json, folder) if path]
    for path in paths:
        if paths.count(path) > 1:
            raise ValueError(f"{path} is the place of two outputs: give them different names.")
    sinks: list[Sink] = []
    if args.output:
        sinks.append(Pictures(choose_targets(args.output, sources)))
    if args.json:
        sinks.append(CocoJson(args.json, args.threshold))
    if args.panoptic_json:
        sinks.append(PanopticJson(args.panoptic_json))
    if args.window:
        sinks.append(Window())
    if not sinks:
        raise ValueError("There is nowhere to show results: name --output, --json, --panoptic-json or --window.")
    return sinks


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    statuses: list[int] = []
    launch(run if described_group() is None else run_share, 1, args=(args, statuses))
    return statuses[0]


def run(args: argparse.Namespace, statuses: list[int]) -> None:
    """All of the inputs, in this process; the exit status is appended."""
    camera = Source(f"webcam{args.webcam}", camera=args.webcam)
    sources, problems = find_sources(args.input) if args.input else ([camera], [])
    sinks = open_sinks(args, sources)
    demo = Demo(load(args), sinks, show=args.show, threshold=args.threshold, report=report)
    for problem in problems:
        report(f"skipped: {problem}")
    with tqdm(total=len(sources) if args.input else None, unit="image", dynamic_ncols=True) as bar:
        demo.run(sources, bar)
    tell(args, demo.num_frames, demo.num_done)
    statuses.append(0 if demo.num_done == len(sources) and not problems else 1)


def run_share(args: argparse.Namespace, statuses: list[int]) -> None:
    """The inputs of this process of a group; the first one puts all results together. The exit status is appended."""
    if args.window or not args.input:
        raise ValueError("--window and --webcam are for one process: start this without torchrun or srun.")
    sources, problems = find_sources(args.input)
    sinks = open_sinks(args, sources)
    first = (args.json or args.panoptic_json or args.output).absolute()
    weights = Path(args.onnx or args.weights or "")
    job = "\n".join(map(str, [vars(args), weights.is_file() and weights.stat().st_mtime_ns, *sources]))
    json_sinks = [sink for sink in sinks if isinstance(sink, JsonSink)]
    parts = Parts(first.parent / f".{first.name}.parts", job, json_sinks, sources)
    is_first = comm.is_main_process()
    if is_first:
        parts.begin()
        for problem in problems:
            report(f"skipped: {problem}")
    wait_for_all()
    share = parts.share(comm.get_rank(), comm.get_world_size())
    own = [parts, *(sink for sink in sinks if not isinstance(sink, JsonSink))]
    predictor = load(args)
    with tqdm(total=len(share), unit="image", dynamic_ncols=True, disable=not is_first) as bar:
        Demo(predictor, own, show=args.show, threshold=args.threshold, report=report).run(share, bar)
    wait_for_all()
    done = [parts.merge(predictor.metadata)] if is_first else []
    num_done, num_frames = next(filter(None, comm.all_gather(done)))[0]
    if is_first:
        tell(args, num_frames, num_done)
    statuses.append(0 if num_done == len(sources) and not problems else 1)


def wait_for_all() -> None:
    """Until every process of the group is here.

    Raises:
        ChildProcessError: one was killed.
    """
    try:
        comm.synchronize()
    except RuntimeError as error:
        raise ChildProcessError(
            f"Another process of the job was killed ({str(error).splitlines()[0]}). Start the same command again: it "
            "goes on where this one stopped."
        ) from error


def tell(args: argparse.Namespace, num_frames: int, num_done: int) -> None:
    """Print what was written, if anything was."""
    if num_frames:
        written = [str(path) for path in (args.output, args.json, args.panoptic_json) if path]
        print(f"{num_frames} images and frames of {num_done} inputs: {', '.join(written) or 'shown'}")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    model = parser.add_argument_group("model")
    model.add_argument("--config-file", type=Path, metavar="YAML", help="of this project or of Detectron2")
    model.add_argument("--weights", type=str, metavar="FILE", help="checkpoint (MODEL.WEIGHTS of the config)")
    model.add_argument("--onnx", type=Path, metavar="FILE", help="in their place: a file that tools/export.py wrote")
    model.add_argument("--device", metavar="DEVICE", help="such as cuda:1 or cpu (MODEL.DEVICE of the config)")
    model.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images at once (%(default)s)")
    model.add_argument("--amp", action="store_true", help="mixed precision (bf16 on a CPU)")
    inputs = parser.add_argument_group("input").add_mutually_exclusive_group(required=True)
    inputs.add_argument("--input", nargs="+", metavar="PATH", help="images, videos, folders, globs in quotes")
    inputs.add_argument("--webcam", type=int, metavar="N", help="a camera; Ctrl-C, or q in --window, ends it")
    output = parser.add_argument_group("output, at least one of these")
    output.add_argument("--output", type=Path, metavar="PATH", help="folder, or file (one input), of drawn results")
    output.add_argument("--window", action="store_true", help="show them; q or Esc ends, any other key goes on")
    output.add_argument("--json", type=Path, metavar="FILE", help="boxes and masks in COCO's result format")
    output.add_argument("--panoptic-json", type=Path, metavar="FILE", help="segments in COCO's; PNGs in a folder FILE")
    what = parser.add_argument_group("what is shown")
    what.add_argument("--show", choices=SHOWS, default="auto", help="auto: the most that the model gives (%(default)s)")
    what.add_argument(
        "--threshold",
        type=_score,
        metavar="SCORE",
        help="least score of boxes and masks, drawn or written (the best F1's, which summarize.py wrote beside the "
        "weights, or 0.5; for an evaluation of the JSON: 0). Panoptic maps have their own, in the config",
    )
    parser.add_overrides()
    args = parser.parse_args(argv)
    of_torch = args.config_file or args.weights
    if args.onnx and (of_torch or args.device or args.amp or args.opts or args.batch_size > 1):
        parser.error(
            "--onnx is a whole model, for one image at a time on the CPU: no other option of models goes with it"
        )
    if not (of_torch or args.onnx):
        parser.error("name a model: --weights CHECKPOINT, --config-file YAML, or both; or --onnx FILE")
    if args.threshold is None:
        args.threshold = threshold_of(args.weights)
    return args


def threshold_of(weights: str | None) -> float:
    """The score with the best F1, as found when the weights' training ended; 0.5 where nothing says."""
    file = Path(weights or "").parent / "results" / "errors.json"
    if not weights or not file.is_file():
        return 0.5
    with contextlib.suppress(ValueError, OSError, KeyError, TypeError):  # a file of another program, or of a stranger
        value = read_json(file)["threshold"]
        if 0 <= value <= 1:
            print(f"Shown are scores from {value:.2f} on, of the best F1 in validation ({file}).", file=sys.stderr)
            return float(value)
    return 0.5


def _score(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be between 0 and 1, got {value}")
    return value


if __name__ == "__main__":
    sys.exit(main())
