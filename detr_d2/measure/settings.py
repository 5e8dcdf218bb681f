"""What a benchmark runs."""

from dataclasses import dataclass

import torch
from detectron2.config import CfgNode

from ..engine import autocast, load_config, prepare_device

REFERENCES = ("none", "transformers", "torchvision")
MODES = ("inference", "train")


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is run, so that another process can build the same.

    Attributes:
        config_file, opts: as of ``tools/train_net.py``.
        sizes: (height, width) of the images; the images of a batch take them in turn.
        batch_size: images per step.
        objects: ground-truth objects per image; an image of COCO's train2017 has 7.3 on average.
        reference: one of `REFERENCES`.
        amp: run under autocast, in ``SOLVER.AMP.PRECISION``.
        threads: of torch on the CPU.
        seed: of weights, images and objects.
    """

    config_file: str
    opts: tuple[str, ...] = ()
    sizes: tuple[tuple[int, int], ...] = ((800, 1066),)
    batch_size: int = 1
    objects: int = 7
    reference: str = "none"
    amp: bool = False
    threads: int = 1
    seed: int = 0

    def load(self) -> CfgNode:
        """The frozen cfg, on a device that this machine has.

        ``MODEL.WEIGHTS`` is read from ``opts`` alone and is empty where they do not name it: speed does not depend on
        it.

        Raises:
            ValueError, FileNotFoundError: see `load_config` and `autocast`.
        """
        cfg = load_config(self.config_file, self.opts)
        prepare_device(cfg)
        if "MODEL.WEIGHTS" not in self.opts[::2]:
            cfg.MODEL.WEIGHTS = ""
        cfg.SOLVER.AMP.ENABLED = self.amp
        cfg.freeze()
        autocast(cfg)  # refuses a precision that the device does not have
        return cfg

    def image_sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each image of a batch."""
        return [self.sizes[i % len(self.sizes)] for i in range(self.batch_size)]

    def implementations(self) -> list[str]:
        """What is measured, in the order in which it runs."""
        return ["ours"] if self.reference == "none" else ["ours", self.reference]

    def prepare_process(self) -> None:
        """Set what is global in torch."""
        torch.set_num_threads(self.threads)
        torch.manual_seed(self.seed)
