"""Denoising: queries made of the ground truth with noise, which a decoder learns to undo without any matching
(DN-DETR, Li et al., CVPR 2022), and which it learns to refuse where the noise is large (DINO, Zhang et al., ICLR 2023).

Legend: B batch, T_b objects of image b, T the largest T_b, G groups, S slots of an image, Q object queries, L decoder
layers, K classes, C channels, M slots of the batch that hold an object.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torchvision.ops import box_convert

from ...layers import inverse_sigmoid, to_device
from ...structures import Matches, Predictions, Targets
from .query_selection import Queries

# Of inverse sigmoids in DINO's published code.
EPS = 1e-3


@dataclass(frozen=True)
class Denoising:
    """How ground truth becomes queries.

    An image's objects come in G groups, each with its own noise, that do not see one another. G is as large as
    ``num_queries`` allow the image with the most objects, at least 1, and the same for all images. The loss is a mean
    over the groups, which are equally distributed; so what an image is expected to contribute does not depend on the
    others. Slots that an image has too many objects too few for are seen by nobody and carry no loss; the published
    code trains them as negatives.

    Attributes:
        num_classes: K.
        num_queries: pairs of a positive and a negative, in all groups.
        contrastive: besides every object with little noise, the positive, a group holds it with much, the negative,
            which is to be no object.
        label_noise: twice the share of classes that are drawn anew.
        box_noise: how far corners move: up to this times half of the box's size; of negatives once to twice that.
        eps: of the inverse sigmoid that bounds the boxes.
    """

    num_classes: int
    num_queries: int = 100
    contrastive: bool = True
    label_noise: float = 0.5
    box_noise: float = 1.0
    eps: float = EPS

    @torch.no_grad()
    def draw(self, targets: Targets) -> "NoisedObjects":
        """Noised classes and boxes of all groups, on the device of the targets."""
        most = max(targets.counts)
        groups, kinds = max(1, self.num_queries // max(1, most)), 1 + self.contrastive
        labels = targets.labels.repeat(1, groups * kinds)
        flips = torch.rand(labels.shape, device=labels.device) < self.label_noise / 2
        labels = torch.where(flips, torch.randint_like(labels, self.num_classes), labels)

        boxes = targets.boxes.repeat(1, groups * kinds, 1)
        distance = torch.rand_like(boxes)  # of each side, in units of half the box
        negative = torch.arange(labels.shape[1], device=labels.device) // max(1, most) % kinds == 1
        distance = torch.where(negative[:, None], distance + 1, distance)
        distance = torch.where(torch.rand_like(boxes) < 0.5, distance, -distance)
        corners = box_convert(boxes, "cxcywh", "xyxy") + self.box_noise * distance * boxes[..., 2:].repeat(1, 1, 2) / 2
        noised = box_convert(corners.clamp(0, 1), "xyxy", "cxcywh")
        noised = inverse_sigmoid(
            noised, self.eps
        ).sigmoid()  # as published: no closer to an edge than a decoder can say
        return NoisedObjects(labels, noised, targets.counts, groups, kinds)


@dataclass(frozen=True)
class NoisedObjects:
    """Noised ground truth: group after group, in each the positives and then, if there are any, the negatives.

    Attributes:
        labels: B x S classes. boxes: B x S x 4, relative cx, cy, w, h. What has no object is without meaning.
        counts: T_b of each image.
        groups: G.
        kinds: 2 with negatives, otherwise 1. S = G * kinds * T.
    """

    labels: Tensor
    boxes: Tensor
    counts: list[int]
    groups: int
    kinds: int

    @cached_property
    def is_used(self) -> Tensor:
        """B x S: which slots hold an object. On the CPU, which knows without waiting for the device."""
        objects = torch.arange(max(self.counts)) < torch.tensor(self.counts)[:, None]
        return objects.repeat(1, self.groups * self.kinds)

    @property
    def is_positive(self) -> Tensor:
        """B x S: which slots are to find their object. On the CPU."""
        place = torch.arange(self.labels.shape[1])
        return self.is_used & (place // max(1, max(self.counts)) % self.kinds == 0)

    def loss_inputs(self, predictions: Predictions, targets: Targets) -> tuple[Predictions, Targets, Matches]:
        """What a `SetCriterion` takes: the used slots of all images as the M queries of one image that holds all
        objects, and which of them is which object.

        Args:
            predictions: of the slots, logits L x B x S x K and boxes L x B x S x 4.
        """
        device = targets.labels.device
        image, slot = to_device(self.is_used.nonzero().T.contiguous(), device)  # M each
        positive = to_device(self.is_positive[self.is_used].nonzero()[:, 0], device)  # of the M
        target = targets.flat_index(image[positive], slot[positive] % max(1, max(self.counts)))
        labels, boxes = (
            torch.cat([own[:count] for own, count in zip(padded, self.counts, strict=True)])[None]
            for padded in (targets.labels, targets.boxes)
        )
        layers, every = len(predictions.logits), Targets(labels, boxes, [labels.shape[1]])
        used = predictions.of(image, slot)
        matches = Matches(torch.zeros_like(target), positive.expand(layers, -1), target.expand(layers, -1))
        return used, every, matches


@dataclass(frozen=True)
class DenoisingQueries:
    """Noised objects on their way through a decoder, before its object queries.

    Attributes:
        objects: what they stand for.
        target: B x S x C, the embeddings of their classes.
    """

    objects: NoisedObjects
    target: Tensor

    def before(self, queries: Queries) -> Queries:
        """Both, these first, with who may see whom: object queries see each other alone, as in inference; a group sees
        itself and them.
        """
        objects, count = self.objects, queries.target.shape[1]
        slots = self.target.shape[1]
        group = torch.arange(slots) // max(1, slots // objects.groups)
        sees_slots = (group[:, None] == group) & objects.is_used[:, None]  # B x S x S
        if objects.is_used.all():
            sees_slots = sees_slots[:1]  # the same in every image
        sees = torch.nn.functional.pad(sees_slots, (0, count, 0, count))  # slots first, then queries
        sees[:, :, slots:] = True
        return Queries(
            torch.cat([self.target.to(queries.target.dtype), queries.target], dim=1),
            None,
            torch.cat([objects.boxes.to(queries.reference.dtype), queries.reference], dim=1),
            queries.proposals,
            to_device(sees[:, None], queries.target.device),
        )
