"""The set criterion of DETR: match predictions with objects, then classify and regress by that matching.

Legend: L decoder layers, B batch, Q queries, K classes (no-object last), M matched pairs.
"""

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from .losses import giou_box_loss, l1_box_loss, weighted_cross_entropy
from .matcher import HungarianMatcher, Matches, Targets
from .outputs import DetectionOutputs


class SetCriterion(nn.Module):
    """Losses of every decoder layer, each layer matched on its own (Carion et al., 2020, section 3.1 and A.2).

    All layers are computed at once. Normalisers are averaged over all workers, so that N workers with B images each
    give the loss and the gradients of one worker with N * B images.

    Args:
        matcher: assigns queries to objects.
        weights: of ``loss_ce``, ``loss_bbox`` and ``loss_giou``; a weight of 0 drops the loss.
        no_object_weight: weight of the no-object class in the cross-entropy.
    """

    def __init__(self, matcher: HungarianMatcher, weights: dict[str, float], no_object_weight: float) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = weights
        self.no_object_weight = no_object_weight

    def forward(self, outputs: DetectionOutputs, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        """Weighted losses by name: ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, and the same with
        ``_0``, ``_1``, ... of the layers before it. Their sum is what is to be minimised.

        ``matches`` are the matcher's, where the caller has them already.
        """
        if matches is None:
            matches = self.matcher(outputs, targets)
        per_layer = self.classification_loss(outputs, targets, matches) | self.box_losses(outputs, targets, matches)
        num_layers = outputs.logits.shape[0]
        suffixes = [f"_{i}" for i in range(num_layers - 1)] + [""]
        return {
            name + suffix: self.weights[name] * value
            for name, values in per_layer.items()
            if self.weights[name] != 0
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }

    def classification_loss(self, outputs: DetectionOutputs, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """``loss_ce``: cross-entropy of all queries, those without object against the no-object class."""
        no_object = outputs.logits.shape[-1] - 1
        classes = torch.full(outputs.logits.shape[:3], no_object, device=outputs.logits.device)
        matched = targets.labels[matches.batch, matches.target]  # L x M
        classes[_layer_index(matches), matches.batch, matches.query] = matched
        loss, weight = weighted_cross_entropy(outputs.logits, classes, self.no_object_weight)
        self.log_metrics(outputs.pred_logits.detach(), matched[-1], matches, targets.counts)
        return {"loss_ce": loss / mean_over_workers(weight)}

    def box_losses(self, outputs: DetectionOutputs, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """``loss_bbox`` and ``loss_giou`` of the matched queries, per object."""
        predicted = outputs.boxes[_layer_index(matches), matches.batch, matches.query].float()  # L x M x 4
        target = targets.boxes[matches.batch, matches.target]
        num_boxes = mean_number_of_objects(targets)
        return {
            "loss_bbox": l1_box_loss(predicted, target) / num_boxes,
            "loss_giou": giou_box_loss(predicted, target) / num_boxes,
        }

    @torch.no_grad()
    def log_metrics(self, logits: Tensor, matched_classes: Tensor, matches: Matches, counts: list[int]) -> None:
        """Put ``class_error`` (% of matched queries whose class is wrong) and ``cardinality_error`` (mean
        difference between predicted and true number of objects) into the event storage, where a trainer has opened
        one.
        """
        if not has_event_storage():
            return
        storage = get_event_storage()
        predicted = logits.argmax(-1)  # B x Q
        if len(matched_classes):
            wrong = predicted[matches.batch, matches.query[-1]] != matched_classes
            storage.put_scalar("class_error", 100 * wrong.float().mean())
        cardinality = (predicted != logits.shape[-1] - 1).sum(1)
        storage.put_scalar("cardinality_error", (cardinality - cardinality.new_tensor(counts)).abs().float().mean())


def mean_number_of_objects(targets: Targets) -> Tensor:
    """Objects in the batch, averaged over all workers, at least 1."""
    count = torch.tensor(float(sum(targets.counts)), device=targets.boxes.device)
    return mean_over_workers(count).clamp(min=1)


def mean_over_workers(value: Tensor) -> Tensor:
    """The mean of a tensor over all distributed workers; itself where there is one."""
    world_size = comm.get_world_size()
    if world_size == 1:
        return value
    value = value.detach().clone()
    torch.distributed.all_reduce(value)
    return value / world_size


def _layer_index(matches: Matches) -> Tensor:
    return torch.arange(matches.query.shape[0], device=matches.query.device)[:, None]
