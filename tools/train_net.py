#!/usr/bin/env python
"""Train and evaluate any model of this package, or of Detectron2, from a yaml config.

    python tools/train_net.py --config-file configs/COCO-Detection/detr_R_50_300ep.yaml --num-gpus 8
    python tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS detr-r50-e632da11.pth

Without a GPU it runs on the CPU; --num-gpus then counts processes.
"""

import argparse
import sys

from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser, default_setup, launch
from detectron2.evaluation import verify_results
from detectron2.utils import comm

import detr_d2  # noqa: F401 (registers the models)
from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import Trainer, load_config, prepare_device


def main(args: argparse.Namespace, cfg: CfgNode) -> dict | None:
    """Run one process of the job; returns the evaluation's results where there are any."""
    default_setup(cfg, args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        checkpointer = DetrCheckpointer(model, cfg.OUTPUT_DIR, reinit_class_head=cfg.MODEL.REINIT_CLASS_HEAD)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=args.resume)
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            verify_results(cfg, results)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


def setup(args: argparse.Namespace) -> CfgNode:
    """The cfg of a command line, frozen."""
    cfg = load_config(args.config_file, args.opts)
    prepare_device(cfg, args.num_gpus)
    cfg.freeze()
    return cfg


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    try:
        cfg = setup(args)
    except (ValueError, FileNotFoundError) as error:
        sys.exit(f"train_net.py: {error}")
    launch(main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args, cfg))
