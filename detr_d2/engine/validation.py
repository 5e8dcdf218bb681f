"""Losses on images that training does not see (``TEST.LOSSES``)."""

import copy
import logging

from detectron2.config import CfgNode
from detectron2.data.samplers import InferenceSampler
from detectron2.utils import comm
from detectron2.utils.events import EventStorage
from torch import nn, no_grad
from torchvision.ops import StochasticDepth

from ..data import build_validation_loader
from ..data.train_loader import seeded

_DRAWN = (nn.modules.dropout._DropoutNd, StochasticDepth)


@no_grad()
def validation_losses(cfg: CfgNode, model: nn.Module, dataset_name: str) -> dict[str, float]:
    """The training's losses on a test set, as means over its images: each image is a batch of its own, as evaluation
    sees it, without augmentation or dropout, and with the statistics of norms as they are.

    Every process takes its share of the images; all of them get the result. The model stays as it is.

    Raises:
        ValueError, FileNotFoundError: the test set cannot be learnt from, as `detr_d2.data.checks` finds.
    """
    loader = build_validation_loader(cfg, dataset_name)
    model = copy.deepcopy(getattr(model, "module", model)).train()  # Detectron2's RetinaNet remembers its losses
    for module in model.modules():
        is_drawn = isinstance(module, _DRAWN) or isinstance(getattr(module, "dropout", None), float)
        if is_drawn or isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    sums: dict[str, float] = {}
    for index, batch in zip(InferenceSampler(len(loader.dataset)), loader, strict=True):
        # What a model draws, such as DINO's noise, is the same in each evaluation; what it logs is of training alone.
        with seeded(0, index), EventStorage():
            losses = _losses_alone(model, batch)
        for name, value in losses.items():
            sums[name] = sums.get(name, 0.0) + float(value)
    shares = comm.all_gather(sums)
    names = dict.fromkeys(name for share in shares for name in share)
    means = {name: sum(share.get(name, 0.0) for share in shares) / len(loader.dataset) for name in names}
    means["total_loss"] = sum(means.values())
    logging.getLogger(__name__).info(
        f"Losses on {dataset_name}: {', '.join(f'{name} {value:.4g}' for name, value in means.items())}"
    )
    return means


def _losses_alone(model: nn.Module, batch: list[dict]) -> dict:
    if not hasattr(model, "one_step"):
        return model(batch)
    with model.one_step([batch], alone=True):
        return model(batch)
