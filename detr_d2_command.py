"""The command ``detr-d2``. It lies outside of the package, whose import takes seconds that a list of names need not."""

import importlib
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

# Command -> module of detr_d2.cli, words that come first, what it does.
COMMANDS = {
    "train": ("train_net", (), "train a config, and evaluate what it gives"),
    "evaluate": ("train_net", ("--eval-only",), "evaluate a model: --config-file YAML MODEL.WEIGHTS FILE"),
    "demo": ("demo", (), "run a model on images, videos or a camera"),
    "compare": ("compare", (), "one table of several models: accuracy, size, latency, memory"),
    "check": ("check_dataset", (), "list every problem of a dataset"),
    "export": ("export", (), "write a model as an ONNX file or a torch.export program"),
    "run-onnx": ("run_onnx", (), "detect objects with such an ONNX file"),
    "convert": ("convert_checkpoint", (), "weights from and for other projects"),
    "benchmark": ("benchmark", (), "latency, throughput and memory of a config"),
    "plot": ("plot_logs", (), "curves of trainings"),
    "summary": ("summarize", (), "what a training reached: figures by class and pictures, in its folder"),
    "errors": ("analyze_errors", (), "what is wrong with predictions, and what it costs"),
    "explore": ("explore", (), "look at results in a browser: images, errors, curves"),
    "results": ("visualize_results", (), "draw predictions beside the ground truth"),
    "attention": ("visualize_attention", (), "draw what a transformer looks at"),
    "data": ("visualize_data", (), "draw what a model sees: images after augmentation"),
    "subset": ("make_subset", (), "some categories of a dataset, split for training and validation"),
    "voc": ("convert_voc", (), "Pascal VOC's annotations to COCO's format"),
    "shapes": ("generate_shapes", (), "generate the Shapes dataset"),
    "verify-zoo": ("verify_zoo", (), "fetch published weights, and compare what they give with published figures"),
    "panoptic-stuff": ("prepare_panoptic_stuff", (), "the semantic maps that Panoptic FPN learns from"),
}
USAGE = "usage: detr-d2 COMMAND ...\n\n{}\n\nEach command lists its options with --help."


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; gives its exit status."""
    command, *words = (sys.argv[1:] if argv is None else argv) or ["--help"]
    if command in ("-h", "--help"):
        lines = [f"  {name:<16}{text}" for name, (_, _, text) in COMMANDS.items()]
        print(USAGE.format("\n".join(lines)))
        return 0
    if command == "--version":
        try:
            print(version("detr_d2"))
        except PackageNotFoundError:
            print("detr_d2 is not installed")
        return 0
    if command not in COMMANDS:
        print(f"detr-d2: there is no command {command!r}; there are {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    script, first, _ = COMMANDS[command]
    sys.argv[0] = f"detr-d2 {command}"  # what argparse and errors call it
    module = importlib.import_module(f"detr_d2.cli.{script}")
    names = {script: name for name, (script, _, _) in reversed(COMMANDS.items())}
    module.__doc__ = re.sub(r"python tools/(\w+)\.py", lambda found: f"detr-d2 {names[found[1]]}", module.__doc__)
    return module.main([*first, *words])
