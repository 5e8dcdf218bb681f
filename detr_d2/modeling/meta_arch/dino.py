"""DINO: DETR with improved denoising anchor boxes (Zhang et al., ICLR 2023).

Deformable DETR whose queries start from the encoder's proposals, whose decoder places them anew in every layer, and
which in training also learns to undo noise that was put on the ground truth.

Legend: B batch, S denoising slots of an image, Q queries, L decoder layers, K classes.
"""

from dataclasses import replace
from typing import Any, NamedTuple

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY
from torch import Tensor, nn

from ...structures import FeatureLevels, Matches, PaddedImages, Predictions, Targets
from ..set_prediction import mean_number_of_objects
from ..transformer import DeformableOutput, Denoising, DenoisingQueries, NoisedObjects, build_position_encoding
from .deformable_detr import DeformableDETR


class DINODetection(NamedTuple):
    """A `DeformableDetection` of the object queries, with what is said of noised objects.

    Attributes:
        noised: what the denoising queries were made of; None in inference.
        denoised: their predictions.
    """

    features: dict[str, Tensor]
    levels: FeatureLevels
    hidden: DeformableOutput
    predictions: Predictions
    noised: NoisedObjects | None = None
    denoised: Predictions | None = None


@META_ARCH_REGISTRY.register()
class DINO(DeformableDETR):
    """Deformable DETR with DINO's transformer, and denoising in training.

    Args:
        denoising: how noised objects are made; None: without.
        shared: the arguments of `DeformableDETR`.
    """

    facts = replace(
        DeformableDETR.facts,
        weights=(*DeformableDETR.facts.weights, r"(^|\.)transformer\.decoder\.ref_point_head\."),
        transformers="",
    )

    @configurable
    def __init__(self, *, denoising: Denoising | None, **shared: Any) -> None:
        super().__init__(**shared)
        self.denoising = denoising
        if denoising is not None:
            # Published models have a row beyond the classes, which nothing reads.
            self.label_enc = nn.Embedding(self.num_classes + 1, self.transformer.dim)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        dino, arguments = cfg.MODEL.DINO, super().from_config(cfg)
        denoising = Denoising(
            num_classes=arguments["num_classes"],
            num_queries=dino.DENOISING_QUERIES,
            contrastive=dino.CONTRASTIVE,
            label_noise=dino.LABEL_NOISE,
            box_noise=dino.BOX_NOISE,
        )
        return arguments | {
            "position_encoding": build_position_encoding(cfg, offset=dino.POSITION_OFFSET),
            "share_heads": dino.SHARE_HEADS,
            "denoising": denoising if dino.DENOISING_QUERIES > 0 else None,
        }

    def detect(self, images: PaddedImages, targets: Targets | None = None) -> DINODetection:
        features = self.backbone(images.tensor)
        levels = self.project([features[name] for name in self.in_features], images)
        if self.denoising is None or targets is None or not self.training:
            return DINODetection(*self.predict(features, levels))
        return self.predict_denoised(features, levels, self.denoising.draw(targets))

    def predict_denoised(
        self, features: dict[str, Tensor], levels: FeatureLevels, noised: NoisedObjects
    ) -> DINODetection:
        """`predict`, with the predictions of noised objects beside those of the object queries."""
        every = self.predict(features, levels, DenoisingQueries(noised, self.label_enc(noised.labels)))
        slots = noised.labels.shape[1]
        predictions, denoised = (every.predictions.queries(part) for part in (slice(slots, None), slice(slots)))
        hidden = every.hidden._replace(
            hidden_states=every.hidden.hidden_states[:, :, slots:],
            boxes=predictions.boxes,
            references=[reference[:, slots:] for reference in every.hidden.references],
        )
        return DINODetection(features, levels, hidden, predictions, noised, denoised)

    def losses(self, detection: DINODetection, targets: Targets, matches: Matches | None = None) -> dict[str, Tensor]:
        """Those of noised objects end in ``_dn``: per object and group."""
        losses = super().losses(detection, targets, matches)
        if detection.noised is None:
            return losses
        used, objects, known = detection.noised.loss_inputs(detection.denoised, targets)
        count = mean_number_of_objects(targets) * detection.noised.groups
        return losses | self.criterion(used, objects, known, num_objects=count, suffix="_dn")
