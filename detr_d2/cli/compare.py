"""Compare models of any family on the same images: accuracy, size, FLOPs, latency, memory, training speed.

    python tools/compare.py detr.yaml@detr.pth fcos.yaml@fcos.pth --output output/comparison
    python tools/compare.py output/run_a output/run_b --output output/comparison
    python tools/compare.py configs/Shapes/detr_R_18.yaml configs/Shapes/fcos_R_18.yaml --train --train-minutes 5 \\
        --output output/comparison

A model is a config with its weights, CONFIG.yaml@FILE (without @FILE those of its MODEL.WEIGHTS), or the output folder
of a training; LABEL=MODEL names it. With --train each config is trained first, from the MODEL.WEIGHTS that it names.

Written to --output: LABEL/result.json for each model, comparison.md, comparison.csv, comparison.html and plots. The
same command goes on where it was interrupted, and measures again only what other weights, configs, settings or another
machine make necessary. In latency and training speed the models take turns; both are measured again for all when one
changes.
"""

import argparse
import contextlib
import io
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TextIO

import torch

from ..command_line import ToolParser, check_output_folder, command_line_tool, positive
from ..measure.budget import Budget, record_training, train
from ..measure.comparison import PARTS, ComparisonSettings, Measurements
from ..measure.machine import environment
from ..measure.models import ComparedModel, read_models
from ..measure.report import write_report


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output_folder(args.output)
    early = io.StringIO()
    with logging_to(early):  # what is wrong with the models is found before anything is written
        torch.set_num_threads(args.threads or torch.get_num_threads())
        models = read(args)
    args.output.mkdir(parents=True, exist_ok=True)
    try:
        with open(args.output / "compare.log", "a") as log, logging_to(log):
            log.write(early.getvalue())
            measurements = Measurements(trained(args, models) if args.train else models, settings_of(args), args.output)
            measurements.run()
            files = write_report(measurements)
    except RuntimeError as error:  # a training or a process that measures memory ended; the error says why
        raise ValueError(str(error)) from error
    print(files["markdown"].read_text())
    print(f"Written: {', '.join(str(path) for path in files.values())}")
    return 0


def read(args: argparse.Namespace) -> list[ComparedModel]:
    """The models of the command line."""
    needs_weights = "accuracy" in args.parts and not args.train
    models = read_models(args.models, args.opts, dataset=args.dataset, needs_weights=needs_weights)
    for word, model in zip(args.models, models, strict=True) if args.train else ():
        if model.config_file.name == "config.yaml" or "@" in word:
            raise ValueError(f"{word}: --train takes configs; what is trained already is compared without it.")
    return models


def trained(args: argparse.Namespace, models: list[ComparedModel]) -> list[ComparedModel]:
    """The models after their training."""
    budget = Budget(args.train_iters, args.train_minutes, args.seed, args.num_gpus)
    words = []
    for model in models:
        folder = train(model, budget, args.output / model.label, args.opts, _say)
        words.append(f"{model.label}={folder}")
    print(file=sys.stderr)
    opts = ["MODEL.DEVICE", models[0].cfg.MODEL.DEVICE]
    results = read_models(words, opts, dataset=args.dataset)
    for config, model in zip(models, results, strict=True):
        record_training(args.output / model.label, config, model, budget, environment(model.cfg.MODEL.DEVICE))
    return results


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("models", nargs="+", metavar="MODEL", help="[LABEL=]CONFIG.yaml[@WEIGHTS] or [LABEL=]FOLDER")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="of results; made if need be")
    parser.add_argument("--dataset", default="", metavar="NAME", help="for all (default: each config's DATASETS.TEST)")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="what to measure (all)")
    train = parser.add_argument_group("training")
    train.add_argument("--train", action="store_true", help="train each config first, for one of the next two")
    train.add_argument("--train-iters", type=positive, default=0, metavar="N", help="iterations of each")
    train.add_argument(
        "--train-minutes", type=float, default=0.0, metavar="M", help="minutes of each, without evaluation"
    )
    train.add_argument("--num-gpus", type=positive, default=1, metavar="N", help="processes that train (1)")
    measure = parser.add_argument_group("measuring")
    for number in fields(ComparisonSettings):
        if "help" in number.metadata:
            option, text = f"--{number.name.replace('_', '-')}", f"{number.metadata['help']} ({number.default})"
            measure.add_argument(option, type=positive, default=number.default, metavar="N", help=text)
    measure.add_argument("--threads", type=positive, default=0, metavar="N", help="on the CPU (torch's choice)")
    measure.add_argument("--seed", type=int, default=1, help="of training and of the bootstrap (1)")
    parser.add_overrides("overrides of all configs")
    args = parser.parse_args(argv)
    if args.train and bool(args.train_iters) == (args.train_minutes > 0):
        parser.error("--train needs a budget: one of --train-iters and --train-minutes")
    if not args.train and (args.train_iters or args.train_minutes):
        parser.error("--train-iters and --train-minutes need --train")
    if args.images < args.batch_size:
        parser.error(f"--images {args.images} does not fill a batch of --batch-size {args.batch_size}")
    return args


def settings_of(args: argparse.Namespace) -> ComparisonSettings:
    asked = vars(args) | {"parts": tuple(part for part in PARTS if part in args.parts)}
    return ComparisonSettings(
        **{field.name: asked[field.name] for field in fields(ComparisonSettings) if field.name in asked}
    )


def _say(text: str) -> None:
    print(f"\r{text:<60}", end="", file=sys.stderr, flush=True)


@contextlib.contextmanager
def logging_to(stream: TextIO) -> Iterator[None]:
    """What loaders, checkpoints and evaluators log goes to ``stream``, so that the bar can be read."""
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s: %(message)s"))
    loggers = [logging.getLogger(name) for name in ("detectron2", "detr_d2", "fvcore")]
    before = [(logger.handlers[:], logger.level, logger.propagate) for logger in loggers]
    try:
        for logger in loggers:
            logger.handlers[:] = [handler]
            logger.setLevel(logging.INFO)
            logger.propagate = False
        yield
    finally:
        for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
            logger.handlers[:] = handlers
            logger.setLevel(level)
            logger.propagate = propagate


if __name__ == "__main__":
    sys.exit(main())
