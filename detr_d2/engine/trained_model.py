"""A model with the weights that its config names, ready for inference."""

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint import DetrCheckpointer
from ..checkpoint.report import group_names
from .trainer import Trainer


def load_trained_model(cfg: CfgNode) -> nn.Module:
    """The model of ``cfg`` in evaluation mode on ``MODEL.DEVICE``, with all of its weights from ``MODEL.WEIGHTS``.

    Raises:
        ValueError: ``MODEL.WEIGHTS`` is empty, is unreadable, or leaves a part of the model without weights, as those
            of a backbone do.
        FileNotFoundError: the file does not exist.
    """
    weights = cfg.MODEL.WEIGHTS
    if not weights:
        raise ValueError("MODEL.WEIGHTS is empty: name the checkpoint of a trained model.")
    model = Trainer.build_model(cfg).eval()
    checkpointer = DetrCheckpointer(model, weights_from=cfg.MODEL.WEIGHTS_FROM)
    checkpointer.load(weights)
    report = checkpointer.last_report
    if report.missing or report.mismatched:
        raise ValueError(
            f"{weights} has no weights for {group_names([*report.missing, *report.mismatched], 4)}: it is not the "
            f"checkpoint of a trained {cfg.MODEL.META_ARCHITECTURE}; name one in MODEL.WEIGHTS."
        )
    return model
