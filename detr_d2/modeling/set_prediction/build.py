"""The criterion that the keys of ``MODEL.DETR`` describe."""

from detectron2.config import CfgNode

from .criterion import BoxLosses, SetCriterion
from .matcher import HungarianMatcher, giou_cost, l1_cost
from .scoring import Scoring


def build_criterion(cfg: CfgNode, scoring: Scoring) -> SetCriterion:
    """Matching and losses of classes and boxes with the weights of ``MODEL.DETR``, for one way to score queries."""
    detr = cfg.MODEL.DETR
    matcher = HungarianMatcher([(detr.COST_CLASS, scoring.cost), (detr.COST_L1, l1_cost), (detr.COST_GIOU, giou_cost)])
    weights = {"loss_ce": detr.CLASS_WEIGHT, "loss_bbox": detr.L1_WEIGHT, "loss_giou": detr.GIOU_WEIGHT}
    return SetCriterion(matcher, [scoring.losses, BoxLosses()], weights, metrics=[scoring.metrics])
