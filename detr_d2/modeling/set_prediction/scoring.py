"""How a model scores its queries: loss, matching cost, scores and selection of each way to classify, in one object.

Legend: L decoder layers, B batch, Q queries, T objects of an image at most, K columns of the class logits, D detections
of an image.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from ...layers import to_device
from ...structures import Matches, Predictions, Targets
from ..workers import mean_over_batches, mean_over_workers
from .losses import focal_class_loss, matched_iou, quality_class_loss, weighted_cross_entropy

NO_OBJECT = -1  # target class of a query without object


class Scoring(ABC):
    """One way to classify queries.

    Attributes:
        extra_columns: of the class logits, beyond one for each class.
    """

    extra_columns: int = 0

    @abstractmethod
    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Matching cost (`CostTerm`), L x B x Q x T."""

    @abstractmethod
    def class_loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """L x B x Q x K logits and L x B x Q classes, `NO_OBJECT` where there is none -> normalised loss (L,)."""

    @abstractmethod
    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Score and class of every query: the best class but no-object. ... x Q x K -> two of ... x Q."""

    @abstractmethod
    def is_object(self, logits: Tensor) -> Tensor:
        """Whether a query says that it is an object. ... x Q x K -> boolean ... x Q."""

    @abstractmethod
    def select(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Score, class and query of the detections. B x Q x K -> three of B x D."""

    @abstractmethod
    def segments(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """The queries of one image that enter its panoptic map. Q x K -> their indices, scores and classes."""

    def losses(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        """A `LossTerm`: ``loss_ce`` of all queries, those without object included."""
        logits = predictions.logits
        classes = torch.full(logits.shape[:3], NO_OBJECT, device=logits.device)
        classes[matches.layer, matches.batch, matches.query] = targets.labels[matches.batch, matches.target]
        return {"loss_ce": self.class_loss(logits, classes, num_objects)}

    def metrics(self, predictions: Predictions, targets: Targets, matches: Matches) -> dict[str, Tensor]:
        """``class_error`` (% of the matched queries whose class is wrong; not where nothing is matched) and
        ``cardinality_error`` (mean difference between predicted and true number of objects), of the last layer.
        """
        logits, metrics = predictions.pred_logits, {}
        if len(matches.batch):
            predicted = logits[matches.batch, matches.query[-1]].argmax(-1)
            wrong = predicted != targets.labels[matches.batch, matches.target[-1]]
            metrics["class_error"] = 100 * wrong.float().mean()
        count = self.is_object(logits).sum(1)
        return metrics | {
            "cardinality_error": (count - to_device(torch.tensor(targets.counts), count.device)).abs().float().mean()
        }


@dataclass(frozen=True)
class SoftmaxScoring(Scoring):
    """Softmax over the classes and no-object, the last column (Carion et al., ECCV 2020).

    Every query is a detection: DETR needs no threshold and no non-maximum suppression.

    Attributes:
        no_object_weight: weight of the no-object class in the cross-entropy.
    """

    no_object_weight: float
    extra_columns = 1

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """Minus the probability of the object's class."""
        probabilities = predictions.logits.float().softmax(-1)
        labels = targets.labels[None, :, None].expand(*probabilities.shape[:3], -1)
        return -probabilities.gather(-1, labels)

    def class_loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """Weighted mean of the cross-entropy of all queries, over all workers and small batches of a step."""
        objects = (classes[-1] != NO_OBJECT).sum()  # as many in every layer
        classes = torch.where(classes == NO_OBJECT, logits.shape[-1] - 1, classes)
        loss, weight = weighted_cross_entropy(logits, classes, self.no_object_weight)
        elsewhere = mean_over_batches(objects.to(weight)) - objects
        return loss / mean_over_workers(weight + (1 - self.no_object_weight) * elsewhere)

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores, classes = logits.float().softmax(-1)[..., :-1].max(-1)
        return scores, classes

    def is_object(self, logits: Tensor) -> Tensor:
        """Any class before no-object."""
        return logits.argmax(-1) != logits.shape[-1] - 1

    def select(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All queries, in their order."""
        scores, classes = self.best(logits)
        return scores, classes, torch.arange(logits.shape[1], device=logits.device).expand_as(classes)

    def segments(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Those for which, among all classes and no-object, an object's class is best and has more than
        ``threshold``.
        """
        scores, classes = logits.float().softmax(-1).max(-1)
        kept = ((classes != logits.shape[-1] - 1) & (scores > threshold)).nonzero()[:, 0]
        return kept, scores[kept], classes[kept]


@dataclass(frozen=True)
class SigmoidScoring(Scoring):
    """A sigmoid per class, trained with the focal loss (Lin et al., ICCV 2017; Zhu et al., ICLR 2021).

    Attributes:
        alpha: weight of positives; that of negatives is 1 - alpha.
        gamma: how much less well-classified queries count.
        max_detections: how many pairs of query and class are detections.
    """

    alpha: float
    gamma: float
    max_detections: int

    def cost(self, predictions: Predictions, targets: Targets) -> Tensor:
        """The loss of calling a query the object's class, less that of not doing so."""
        logits = predictions.logits.float()
        labels = targets.labels[None, :, None].expand(*logits.shape[:3], -1)
        probability = logits.gather(-1, labels).sigmoid()
        # The published 1e-8 bounds the cost of a query that is certain of itself.
        positive = -(probability + 1e-8).log() * self.alpha * (1 - probability) ** self.gamma
        negative = -(1 - probability + 1e-8).log() * (1 - self.alpha) * probability**self.gamma
        return positive - negative

    def class_loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """Focal loss of all queries and classes, per object."""
        positive = classes[..., None] == torch.arange(logits.shape[-1], device=logits.device)  # never NO_OBJECT
        return focal_class_loss(logits, positive, self.alpha, self.gamma) / num_objects

    def best(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        scores, classes = logits.float().sigmoid().max(-1)
        return scores, classes

    def is_object(self, logits: Tensor) -> Tensor:
        """A class with a probability above one half."""
        return logits.amax(-1) > 0

    def select(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The best pairs of query and class, best first: ``max_detections``, or Q * K where there are fewer.

        A query may be several detections, one a class.
        """
        count = min(self.max_detections, logits[0].numel())
        scores, pair = logits.float().sigmoid().flatten(1).topk(count, dim=1)
        return scores, pair % logits.shape[-1], pair // logits.shape[-1]

    def segments(self, logits: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
        """Those whose best class has more than ``threshold``; there is no no-object class to compare with."""
        scores, classes = self.best(logits)
        kept = (scores > threshold).nonzero()[:, 0]
        return kept, scores[kept], classes[kept]


@dataclass(frozen=True)
class QualityScoring(SigmoidScoring):
    """A sigmoid per class that says how well a query's box fits its object, too: trained with the varifocal loss (Zhang
    et al., CVPR 2021), or with DEIM's matchability-aware one (Huang et al., CVPR 2025).

    Attributes:
        alpha, gamma: of the matching cost, which is that of `SigmoidScoring`.
        loss_alpha, loss_gamma: weight and exponent of the probability of what is no object.
        matchability: DEIM's loss, in which all objects weigh 1 and the IoU that is to be said has the exponent
            ``loss_gamma``; else they weigh their IoU, so that a box that misses its object teaches nothing of it.
    """

    loss_alpha: float = 0.75
    loss_gamma: float = 2.0
    matchability: bool = False

    def losses(
        self, predictions: Predictions, targets: Targets, matches: Matches, num_objects: Tensor
    ) -> dict[str, Tensor]:
        """A `LossTerm`: ``loss_ce`` of all queries and classes, per object."""
        queries = matches.layer, matches.batch, matches.query
        iou = matched_iou(predictions.boxes[queries].float(), targets.boxes[matches.batch, matches.target])
        target, weight = (iou**self.loss_gamma, torch.ones_like(iou)) if self.matchability else (iou, iou)
        place = (*queries, targets.labels[matches.batch, matches.target])
        loss = quality_class_loss(predictions.logits, place, target, weight, self.loss_alpha, self.loss_gamma)
        return {"loss_ce": loss / num_objects}
