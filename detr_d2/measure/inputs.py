"""What a benchmark runs: its settings, and random images and objects as Detectron2's loaders give them."""

import itertools
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.structures import BitMasks, Boxes, Instances, PolygonMasks

from ..engine import autocast, load_config, prepare_device
from ..facts import model_facts, num_classes_of, reads_segments, value_of


@dataclass(frozen=True)
class Settings:
    """Everything that decides what is run, so that another process can build the same.

    Attributes:
        config_file, opts: as of ``tools/train_net.py``.
        sizes: (height, width) of the images; the images of a batch take them in turn.
        batch_size: images per step.
        objects: ground-truth objects per image; an image of COCO's train2017 has 7.3 on average.
        reference: "none", or what a model of ours is measured beside (``references.py``).
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


def make_inputs(cfg: CfgNode, settings: Settings) -> list[dict]:
    """A batch in Detectron2's format: uint8 images and ``settings.objects`` boxes each, with what else the model of
    ``cfg`` is trained on (instance masks, a semantic map). On the CPU, as a data loader returns it.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    sizes = itertools.islice(itertools.cycle(settings.sizes), settings.batch_size)
    return [_make_input(cfg, settings.objects, size, generator) for size in sizes]


def _make_input(cfg: CfgNode, num_objects: int, size: tuple[int, int], generator: torch.Generator) -> dict:
    height, width = size
    num_classes = num_classes_of(cfg)[0] or 1  # a model that states no number takes objects of class 0
    extents = 0.05 + 0.45 * torch.rand(num_objects, 2, generator=generator)
    corners = (1 - extents) * torch.rand(num_objects, 2, generator=generator)
    boxes = torch.cat([corners, corners + extents], dim=1) * torch.tensor([width, height, width, height])
    instances = Instances(size, gt_boxes=Boxes(boxes))
    instances.gt_classes = torch.randint(0, num_classes, (num_objects,), generator=generator)
    if cfg.MODEL.MASK_ON or reads_segments(cfg):
        masks = PolygonMasks([[box[[0, 1, 2, 1, 2, 3, 0, 3]].numpy()] for box in boxes])
        # This package's mappers always give bitmasks, Detectron2's gives what the key says.
        as_polygons = cfg.INPUT.DATASET_MAPPER == "" and cfg.INPUT.MASK_FORMAT == "polygon"
        instances.gt_masks = masks if as_polygons else BitMasks.from_polygon_masks(masks, height, width)
    item = {
        "image": torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator),
        "height": height,
        "width": width,
        "instances": instances,
    }
    semantic_classes = model_facts(cfg).semantic_classes
    if semantic_classes:
        item["sem_seg"] = torch.randint(0, value_of(cfg, semantic_classes), size, generator=generator)
    return item
