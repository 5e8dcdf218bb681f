"""The set criterion of DETR: match predictions with objects, then classify and regress by that matching.

Legend: L decoder layers, B batch, Q queries, M matched pairs.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn

from ...structures import Matches, Predictions, Targets
from ..workers import mean_over_batches, mean_over_workers, parts_of_a_step
from .losses import giou_box_loss, l1_box_loss
from .matcher import HungarianMatcher


class LossTerm(Protocol):
    """Losses by name, each of shape (L,), or of the last layers only; not yet weighted.

    ``num_objects`` is the normaliser, that of `mean_number_of_objects`.
    """

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]: ...


# Figures by name for the training log, of the last layer.
Metrics = Callable[[Predictions, Targets, Matches], dict[str, Tensor]]


class SetCriterion(nn.Module):
    """Losses of every decoder layer, each layer matched on its own (Carion et al., 2020, section 3.1 and A.2).

    All layers are computed at once. Normalisers are averaged over all workers, so that N workers with B images each
    give the loss and the gradients of one worker with N * B images.

    Args:
        matcher: assigns queries to objects.
        terms: what is computed of the matches.
        weights: of the losses by name; one of weight 0 is dropped.
        metrics: what is logged beside the losses, where a trainer has opened an event storage.
    """

    def __init__(
        self,
        matcher: HungarianMatcher,
        terms: Sequence[LossTerm],
        weights: dict[str, float],
        metrics: Sequence[Metrics] = (),
    ) -> None:
        super().__init__()
        self.matcher = matcher
        self.terms = list(terms)
        self.weights = weights
        self.metrics = list(metrics)

    def forward(
        self,
        predictions: Predictions,
        targets: Targets,
        matches: Matches | None = None,
        *,
        num_objects: Tensor | None = None,
        suffix: str = "",
    ) -> dict[str, Tensor]:
        """Weighted losses by name: ``loss_ce``, ``loss_bbox``, ... of the last layer, and the same with ``_0``, ``_1``,
        ... of the layers before it. Their sum is what is to be minimised.

        Args:
            matches: the matcher's, where the caller has them already, or anybody else's.
            num_objects: the normaliser; None: `mean_number_of_objects`.
            suffix: put after every name.
        """
        if matches is None:
            matches = self.matcher(predictions, targets)
        if num_objects is None:
            num_objects = mean_number_of_objects(targets)
        losses = {}
        for term in self.terms:
            losses |= term(predictions, targets, matches, num_objects)
        self.log_metrics(predictions, targets, matches, suffix)
        layers = [*(f"_{i}" for i in range(len(predictions.logits) - 1)), ""]
        return {
            f"{name}{layer}{suffix}": self.weights[name] * value
            for name, values in losses.items()
            if self.weights[name] != 0
            for layer, value in zip(layers[-len(values) :], values.unbind(), strict=True)
        }

    @torch.no_grad()
    def log_metrics(self, predictions: Predictions, targets: Targets, matches: Matches, suffix: str) -> None:
        """Put what ``metrics`` give into the event storage, where there is one."""
        if not has_event_storage():
            return
        for metrics in self.metrics:
            for name, value in metrics(predictions, targets, matches).items():
                get_event_storage().put_scalar(name + suffix, value)


class BoxLosses:
    """A `LossTerm`: ``loss_bbox`` (L1) and ``loss_giou`` of the matched queries, per object."""

    def __call__(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        predicted = predictions.boxes[matches.layer, matches.batch, matches.query].float()  # L x M x 4
        target = targets.boxes[matches.batch, matches.target]
        return {
            "loss_bbox": l1_box_loss(predicted, target) / num_objects,
            "loss_giou": giou_box_loss(predicted, target) / num_objects,
        }


def mean_number_of_objects(targets: Targets) -> Tensor:
    """Objects in the batch, averaged over all workers and small batches of a step, at least 1 in all of these."""
    count = torch.full((), float(sum(targets.counts)), device=targets.labels.device)
    return mean_over_workers(mean_over_batches(count)).clamp(min=1 / parts_of_a_step())
