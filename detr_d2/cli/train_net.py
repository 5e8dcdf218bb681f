"""Train and evaluate any model of this package, or of Detectron2, from a yaml config.

    python tools/train_net.py --config-file configs/COCO-Detection/detr_R_50_300ep.yaml --num-gpus 8
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS detr-r50-e632da11.pth
    python tools/train_net.py --config-file ... --resume

Without a GPU it runs on the CPU; --num-gpus then counts processes. Everything goes to OUTPUT_DIR: checkpoints,
metrics.json, TensorBoard events, predictions below inference/, and log.txt, which also holds the traceback of an error.
A folder belongs to one run: --resume goes on with it to the last bit, a new run needs another OUTPUT_DIR. What begins
as ... --resume in an empty folder is a new run, too.

torchrun and srun start its processes, too, on one machine or several (docs/launching.md):

    torchrun --nproc-per-node 8 --max-restarts 3 tools/train_net.py --config-file ...
    srun --ntasks-per-node 8 --gpus-per-node 8 python tools/train_net.py --config-file ...
"""

import argparse
import contextlib
import logging
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.evaluation import verify_results
from detectron2.utils import comm
from detectron2.utils.collect_env import collect_env_info
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger

from ..checkpoint import DetrCheckpointer, loading_options
from ..checkpoint.class_names import read_dataset_metadata
from ..command_line import MENDABLE, check_output_folder, command_line_tool
from ..data.checks import check_dataset_name, check_weights_classes
from ..engine import (
    Trainer,
    claimed_folder,
    described_group,
    fit_minutes,
    launch,
    load_config,
    prepare_device,
    quiet_screen,
    restarted_job,
)
from ..files import full_disk_named
from .summarize import summarize


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = build_parser().parse_args(argv)
    cfg = setup(args)
    launch(run, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args, cfg))
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Detectron2's options, and what this script says of itself."""
    parser = default_argument_parser()
    parser.description, parser.epilog = __doc__, None
    parser.set_defaults(dist_url="auto")  # without several machines there is nothing to choose
    return parser


def setup(args: argparse.Namespace) -> CfgNode:
    """The cfg of a command line, frozen. What can be seen to be wrong with it ends here, before anything is written."""
    cfg = load_config(args.config_file, args.opts)
    group = described_group()
    prepare_device(cfg, group.size if group else args.num_gpus)
    cfg.freeze()
    key = "DATASETS.TEST" if args.eval_only else "DATASETS.TRAIN"
    if not (cfg.DATASETS.TEST if args.eval_only else cfg.DATASETS.TRAIN):
        raise ValueError(f"{key} is empty: name a config with --config-file, or datasets with {key} \"('NAME',)\".")
    for name in (*(() if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST):
        check_dataset_name(name)
    weights = cfg.MODEL.WEIGHTS
    if weights and not args.resume and "://" not in weights and not Path(weights.split("?")[0]).exists():
        raise FileNotFoundError(f"MODEL.WEIGHTS names {weights}, which does not exist.")
    if "://" not in cfg.OUTPUT_DIR:
        check_output_folder(Path(cfg.OUTPUT_DIR))
    return cfg


def run(args: argparse.Namespace, cfg: CfgNode) -> dict | None:
    """One process of the job; returns the evaluation's results where there are any."""
    job, is_restarted = restarted_job()
    is_restarted = any(comm.all_gather(is_restarted))  # which torchrun may not count alike on all machines
    with contextlib.ExitStack() as stack:
        if comm.is_main_process() and not args.eval_only:
            stack.enter_context(claimed_folder(cfg, resume=args.resume, job=job, is_restarted=is_restarted))
        args.resume |= is_restarted and not args.eval_only
        stack.enter_context(full_disk_named(Path(cfg.OUTPUT_DIR) / "log.txt"))
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK and not args.eval_only
        start_log(cfg, args)
        stack.enter_context(tracebacks_in_the_log(cfg.OUTPUT_DIR))
        if not args.eval_only:
            cfg = fit_minutes(cfg, args.resume)
        seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
        if args.eval_only:
            return evaluate(args, cfg)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        results = trainer.train()
        if cfg.TEST.SUMMARY and cfg.DATASETS.TEST and comm.is_main_process() and "://" not in cfg.OUTPUT_DIR:
            log_summary(Path(cfg.OUTPUT_DIR))
        return results


def log_summary(run: Path) -> None:
    """`summarize` a finished training. The training is done and saved, so that no picture may end it with an error."""
    logger = logging.getLogger("detectron2.train_net")
    try:
        logger.info("\n" + summarize(run))
    except Exception as error:
        logger.warning(f"The folder {run / 'results'} is not complete: {error}", exc_info=True)


def start_log(cfg: CfgNode, args: argparse.Namespace) -> None:
    """Detectron2's ``default_setup``, but for ``config.yaml``, which the trainer writes once the weights fit."""
    logging.raiseExceptions = False  # a log that cannot be written is no news beside the error of a full disk
    rank = comm.get_rank()
    for name in ("fvcore", "detectron2"):
        setup_logger(cfg.OUTPUT_DIR, distributed_rank=rank, name=name)
    logger = logging.getLogger("detectron2.train_net")
    for handler in logging.getLogger("detectron2").handlers:
        logging.getLogger("detr_d2").addHandler(handler)
    quiet_screen(logging.getLogger(name) for name in ("fvcore", "detectron2"))
    logger.info(f"Process {rank} of {comm.get_world_size()}. Environment:\n{collect_env_info()}")
    logger.info(f"Command line: {args}\nFull config:\n{cfg.dump()}")


def evaluate(args: argparse.Namespace, cfg: CfgNode) -> dict:
    """Evaluate ``MODEL.WEIGHTS``, or with --resume the last checkpoint of ``OUTPUT_DIR``."""
    model = Trainer.build_model(cfg)
    checkpointer = DetrCheckpointer(model, cfg.OUTPUT_DIR, **loading_options(cfg))
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
    report = checkpointer.last_report
    if report and report.reinitialized:
        raise ValueError(
            f"{report.source} has other classes than the model, so its class head would be random "
            "(MODEL.REINIT_CLASS_HEAD): name what training made of it in MODEL.WEIGHTS, OUTPUT_DIR/model_final.pth."
        )
    if report:
        check_weights_classes(cfg, read_dataset_metadata(report.source), report.source)
    results = Trainer.test(cfg, model, resumable=True)
    if cfg.TEST.CHECK_EXPECTED and comm.is_main_process():
        verify_results(cfg, results)
    return results


@contextlib.contextmanager
def tracebacks_in_the_log(output: str) -> Iterator[None]:
    """Within it, the screen shows no traceback of errors that `command_line_tool` reports in a line; log.txt does."""
    logger = logging.getLogger("detectron2.train_net")
    for handler in logging.getLogger("detectron2").handlers:
        if getattr(handler, "stream", None) is sys.stdout:
            handler.addFilter(has_no_traceback)
    try:
        with lost_processes_named():
            yield
    except MENDABLE:
        logger.info("The job ends with an error, whose traceback is at the end of %s/log.txt.", output)
        logger.exception("The error that ended the job:")
        raise


@contextlib.contextmanager
def lost_processes_named() -> Iterator[None]:
    """Within it, torch's error of a killed worker of a loader, or of a broken connection, is a ChildProcessError."""
    try:
        yield
    except RuntimeError as error:
        if not re.search(r"DataLoader worker \(pid|gloo/transport", str(error)):
            raise
        raise ChildProcessError(
            f"Another process of the job was killed ({str(error).splitlines()[0]}); a machine that runs out of memory "
            "does that. Lower DATALOADER.NUM_WORKERS or the batch; to go on from the last checkpoint, add --resume."
        ) from error


def has_no_traceback(record: logging.LogRecord) -> bool:
    """A filter of log records; Detectron2's loop logs the traceback of what its caller raises again."""
    return record.exc_info is None


if __name__ == "__main__":
    sys.exit(main())
