"""The set criterion of DETR: match predictions with objects, then classify and regress by that matching.

Legend: L decoder layers, B batch, Q queries, K columns of the class logits, M matched pairs.
"""

from typing import Protocol

import torch
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from .losses import giou_box_loss, l1_box_loss
from .matcher import HungarianMatcher, Matches, Targets
from .outputs import DetectionOutputs

NO_OBJECT = -1  # target class of a query without object


class Classification(Protocol):
    """How class logits are read: what they cost, and which queries they call an object."""

    def loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """L x B x Q x K logits and L x B x Q classes, `NO_OBJECT` where there is none -> normalised loss (L,).

        ``num_objects``: in the batch, averaged over all workers, at least 1.
        """
        ...

    def is_object(self, logits: Tensor) -> Tensor:
        """B x Q x K -> boolean B x Q."""
        ...


class SetCriterion(nn.Module):
    """Losses of every decoder layer, each layer matched on its own (Carion et al., 2020, section 3.1 and A.2).

    All layers are computed at once. Normalisers are averaged over all workers, so that N workers with B images each
    give the loss and the gradients of one worker with N * B images.

    Args:
        matcher: assigns queries to objects.
        weights: of ``loss_ce``, ``loss_bbox`` and ``loss_giou``; a weight of 0 drops the loss.
        classification: of ``loss_ce``: cross-entropy with a no-object class, or sigmoid focal loss.
    """

    def __init__(self, matcher: HungarianMatcher, weights: dict[str, float], classification: Classification) -> None:
        super().__init__()
        self.matcher = matcher
        self.weights = weights
        self.classification = classification

    def forward(
        self, outputs: DetectionOutputs, targets: Targets, matches: Matches | None = None, *, suffix: str = ""
    ) -> dict[str, Tensor]:
        """Weighted losses by name: ``loss_ce``, ``loss_bbox``, ``loss_giou`` of the last layer, and the same with
        ``_0``, ``_1``, ... of the layers before it. Their sum is what is to be minimised.

        ``matches`` are the matcher's, where the caller has them already. ``suffix`` is put after every name.
        """
        if matches is None:
            matches = self.matcher(outputs, targets)
        num_objects = mean_number_of_objects(targets)
        per_layer = {
            "loss_ce": self.classification_loss(outputs, targets, matches, num_objects),
            **self.box_losses(outputs, targets, matches, num_objects),
        }
        self.log_metrics(outputs, targets, matches, suffix)
        num_layers = outputs.logits.shape[0]
        suffixes = [f"_{i}{suffix}" for i in range(num_layers - 1)] + [suffix]
        return {
            name + suffix: self.weights[name] * value
            for name, values in per_layer.items()
            if self.weights[name] != 0
            for suffix, value in zip(suffixes, values.unbind(), strict=True)
        }

    def classification_loss(
        self, outputs: DetectionOutputs, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> Tensor:
        """The loss of all queries, those without object included, of every layer."""
        classes = torch.full(outputs.logits.shape[:3], NO_OBJECT, device=outputs.logits.device)
        matched = targets.labels[matches.batch, matches.target]  # L x M
        classes[_layer_index(matches), matches.batch, matches.query] = matched
        return self.classification.loss(outputs.logits, classes, num_objects)

    def box_losses(
        self, outputs: DetectionOutputs, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        """``loss_bbox`` and ``loss_giou`` of the matched queries, per object."""
        predicted = outputs.boxes[_layer_index(matches), matches.batch, matches.query].float()  # L x M x 4
        target = targets.boxes[matches.batch, matches.target]
        return {
            "loss_bbox": l1_box_loss(predicted, target) / num_objects,
            "loss_giou": giou_box_loss(predicted, target) / num_objects,
        }

    @torch.no_grad()
    def log_metrics(self, outputs: DetectionOutputs, targets: Targets, matches: Matches, suffix: str) -> None:
        """Put ``class_error`` (% of the last layer's matched queries whose class is wrong) and ``cardinality_error``
        (mean difference between predicted and true number of objects) into the event storage, where a trainer has
        opened one.
        """
        if not has_event_storage():
            return
        storage = get_event_storage()
        logits = outputs.pred_logits
        if len(matches.batch):
            predicted = logits[matches.batch, matches.query[-1]].argmax(-1)
            wrong = predicted != targets.labels[matches.batch, matches.target[-1]]
            storage.put_scalar(f"class_error{suffix}", 100 * wrong.float().mean())
        count = self.classification.is_object(logits).sum(1)
        storage.put_scalar(
            f"cardinality_error{suffix}", (count - count.new_tensor(targets.counts)).abs().float().mean()
        )


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
