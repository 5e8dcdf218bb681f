"""How a detection transformer classifies its queries: with a no-object class, or each class on its own.

Legend: L decoder layers, B batch, Q queries, T objects of an image at most, K columns of the class logits.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from .criterion import NO_OBJECT, mean_over_workers
from .losses import focal_class_loss, weighted_cross_entropy
from .matcher import Targets
from .outputs import DetectionOutputs


@dataclass(frozen=True)
class SoftmaxClassification:
    """Softmax over the classes and no-object, the last column (Carion et al., ECCV 2020).

    Attributes:
        no_object_weight: weight of the no-object class in the cross-entropy.
    """

    no_object_weight: float

    def loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """Weighted mean of the cross-entropy of all queries, over all workers."""
        classes = torch.where(classes == NO_OBJECT, logits.shape[-1] - 1, classes)
        loss, weight = weighted_cross_entropy(logits, classes, self.no_object_weight)
        return loss / mean_over_workers(weight)

    def is_object(self, logits: Tensor) -> Tensor:
        """Any class before no-object."""
        return logits.argmax(-1) != logits.shape[-1] - 1


@dataclass(frozen=True)
class FocalClassification:
    """A sigmoid per class, trained with the focal loss (Lin et al., ICCV 2017; Zhu et al., ICLR 2021).

    Attributes:
        alpha: weight of positives; that of negatives is 1 - alpha.
        gamma: how much less well-classified queries count.
    """

    alpha: float
    gamma: float

    def loss(self, logits: Tensor, classes: Tensor, num_objects: Tensor) -> Tensor:
        """Focal loss of all queries and classes, per object."""
        positive = classes[..., None] == torch.arange(logits.shape[-1], device=logits.device)  # never NO_OBJECT
        return focal_class_loss(logits, positive, self.alpha, self.gamma) / num_objects

    def is_object(self, logits: Tensor) -> Tensor:
        """A class with a probability above one half."""
        return logits.amax(-1) > 0

    def cost(self, outputs: DetectionOutputs, targets: Targets) -> Tensor:
        """Matching cost, L x B x Q x T: the loss of calling a query the object's class, less that of not doing so."""
        logits = outputs.logits.float()
        labels = targets.labels[None, :, None].expand(*logits.shape[:3], -1)
        probability = logits.gather(-1, labels).sigmoid()
        # The published 1e-8 bounds the cost of a query that is sure of itself.
        positive = -(probability + 1e-8).log() * self.alpha * (1 - probability) ** self.gamma
        negative = -(1 - probability + 1e-8).log() * (1 - self.alpha) * probability**self.gamma
        return positive - negative
