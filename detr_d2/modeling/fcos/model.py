"""FCOS: fully convolutional one-stage object detection (Tian et al., ICCV 2019 and TPAMI 2020).

Detectron2 has a class of this name, which it does not register and which reads no yaml; it differs from the paper: no
scales, locations at the corners of what they stand for, an unweighted box loss, another normaliser.

Legend: B batch, C channels, H W size of one level.
"""

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager

import torch
from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, build_backbone
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Instances
from torch import Tensor, nn

from ...checkpoint import reinit_parts, translate_when_loading
from ...facts import ModelFacts, methods
from ...layers import to_device
from ...structures import PaddedImages, scaled_instances
from ..workers import one_step
from .criterion import FCOSCriterion
from .head import FCOSHead
from .outputs import FCOSOutputs, FCOSTargets, Locations
from .postprocessing import FCOSPostprocessor
from .targets import FCOSTargetAssigner


@META_ARCH_REGISTRY.register()
class FCOS(nn.Module):
    """Backbone with a feature pyramid, one head on all of its levels.

    Args:
        backbone: any Detectron2 backbone.
        in_features: names of the feature maps that the head reads, finest first.
        head: features -> predictions of each level.
        assigner: locations and objects -> targets.
        criterion: outputs and targets -> losses.
        postprocessor: outputs -> detections.
        location_offset: of the first location from the image's corner, in strides.
        pixel_mean, pixel_std: per channel, in the channel order of the input images.
        reinit: parts that weights of others leave as they are, of `detr_d2.checkpoint.planning.REINIT`.
    """

    facts = ModelFacts(
        num_classes="MODEL.FCOS.NUM_CLASSES",
        weights=(r"^head\.cls_tower\.", r"^head\.scales\."),
        postprocessing=methods("postprocessor", "rescale"),
    )

    @configurable
    def __init__(
        self,
        *,
        backbone: Backbone,
        in_features: Sequence[str],
        head: nn.Module,
        assigner: FCOSTargetAssigner,
        criterion: FCOSCriterion,
        postprocessor: FCOSPostprocessor,
        location_offset: float,
        pixel_mean: Sequence[float],
        pixel_std: Sequence[float],
        reinit: Collection[str] = (),
    ) -> None:
        super().__init__()
        translate_when_loading(self, reinit=reinit)
        self.backbone = backbone
        self.in_features = list(in_features)
        self.strides = [backbone.output_shape()[name].stride for name in in_features]
        self.head = head
        self.assigner = assigner
        self.criterion = criterion
        self.postprocessor = postprocessor
        self.location_offset = location_offset
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, object]:
        fcos, backbone = cfg.MODEL.FCOS, build_backbone(cfg)
        check_levels(fcos, backbone)
        return {
            "backbone": backbone,
            "in_features": fcos.IN_FEATURES,
            "head": FCOSHead(cfg, [backbone.output_shape()[name] for name in fcos.IN_FEATURES]),
            "assigner": FCOSTargetAssigner(fcos.REGRESSION_RANGES, fcos.CENTER_SAMPLING_RADIUS),
            "criterion": FCOSCriterion(
                localization=fcos.LOCALIZATION_LOSS,
                quality=fcos.QUALITY,
                alpha=fcos.FOCAL_LOSS_ALPHA,
                gamma=fcos.FOCAL_LOSS_GAMMA,
            ),
            "postprocessor": FCOSPostprocessor(
                score_threshold=fcos.SCORE_THRESH_TEST,
                threshold_on=fcos.SCORE_THRESH_ON,
                topk=fcos.TOPK_CANDIDATES_TEST,
                nms_threshold=fcos.NMS_THRESH_TEST,
                max_detections=cfg.TEST.DETECTIONS_PER_IMAGE,
            ),
            "location_offset": fcos.LOCATION_OFFSET,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "reinit": reinit_parts(cfg),
        }

    @property
    def device(self) -> torch.device:
        return self.pixel_mean.device

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict[str, Instances]]:
        """Detectron2's model interface.

        Args:
            batched_inputs: a dict per image: ``image`` (3 x h x w, 0..255), in training ``instances`` with
                ``gt_boxes`` and ``gt_classes``; in inference optionally ``height`` and ``width``, the size of the
                results.

        Returns:
            Losses by name in training; else a dict per image with ``instances``: ``pred_boxes``, ``scores`` and
            ``pred_classes``, best first.
        """
        images = self.preprocess(batched_inputs)
        features = self.extract(images)
        if self.training:
            return self.losses(features, batched_inputs)
        return self.rescale(self.detect(features, images), batched_inputs)

    def preprocess(self, batched_inputs: list[dict]) -> PaddedImages:
        """Normalise, then pad to a multiple of what the backbone needs."""
        return PaddedImages.from_inputs(
            batched_inputs, self.pixel_mean, self.pixel_std, self.backbone.size_divisibility
        )

    def extract(self, images: PaddedImages) -> list[Tensor]:
        """Features of each level, B x C x H x W."""
        features = self.backbone(images.tensor)
        return [features[name] for name in self.in_features]

    def locate(self, features: Sequence[Tensor]) -> Locations:
        """The locations of all levels."""
        sizes = [tuple(feature.shape[-2:]) for feature in features]
        return Locations.of_levels(sizes, self.strides, self.location_offset, self.device)

    def losses(self, features: Sequence[Tensor], batched_inputs: list[dict]) -> dict[str, Tensor]:
        """Losses by name."""
        targets = self.prepare_targets(self.locate(features), batched_inputs)
        return self.criterion(FCOSOutputs.from_levels(self.head(features)), targets)

    def prepare_targets(self, locations: Locations, batched_inputs: list[dict]) -> FCOSTargets:
        """What each location is to predict."""
        instances = [item["instances"] for item in batched_inputs]
        counts = [len(x) for x in instances]
        boxes = to_device(torch.cat([x.gt_boxes.tensor for x in instances]), self.device).split(counts)
        classes = to_device(torch.cat([x.gt_classes for x in instances]), self.device).split(counts)
        return self.assigner(locations, boxes, classes)

    def one_step(self, batches: Sequence[list[dict]], *, alone: bool = False) -> AbstractContextManager[None]:
        """Within it the losses of each of these small batches have the normalisers of all of them, so that the mean of
        their gradients is the gradient of one large batch. ``alone``: without other workers.
        """
        normalisers = []
        for batch in batches:
            side = max(1, self.backbone.size_divisibility)
            frame = [-(-max(item["image"].shape[axis] for item in batch) // side) * side for axis in (1, 2)]
            sizes = [(-(-frame[0] // stride), -(-frame[1] // stride)) for stride in self.strides]
            locations = Locations.of_levels(sizes, self.strides, self.location_offset, self.device)
            normalisers.append(self.criterion.normalisers(self.prepare_targets(locations, batch)))
        return one_step(normalisers, alone=alone)

    def detect(self, features: Sequence[Tensor], images: PaddedImages) -> list[Instances]:
        """Detections of each image in its own pixels.

        The head's GroupNorm takes statistics over whole maps, so an image must not be seen with the padding that others
        bring: images of different sizes go through the head one by one, as large as they are alone.
        """
        sizes = images.image_sizes
        extents = [[tuple(-(-side // s) for side in frame) for s in self.strides] for frame in images.frame_sizes]
        if all(extent == [tuple(f.shape[-2:]) for f in features] for extent in extents):
            return self.postprocessor(FCOSOutputs.from_levels(self.head(features)), self.locate(features), sizes)
        results = []
        for i, (extent, size) in enumerate(zip(extents, sizes, strict=True)):
            own = [feature[i : i + 1, :, :h, :w] for feature, (h, w) in zip(features, extent, strict=True)]
            results += self.postprocessor(FCOSOutputs.from_levels(self.head(own)), self.locate(own), [size])
        return results

    def rescale(self, detections: Sequence[Instances], batched_inputs: list[dict]) -> list[dict[str, Instances]]:
        """Detections at each input's ``height`` and ``width``."""
        sizes = [
            (item.get("height", x.image_size[0]), item.get("width", x.image_size[1]))
            for x, item in zip(detections, batched_inputs, strict=True)
        ]
        return [{"instances": scaled_instances(x, size)} for x, size in zip(detections, sizes, strict=True)]


def check_levels(fcos: CfgNode, backbone: Backbone) -> None:
    """Raise a ValueError that names the key where levels do not fit together."""
    missing = [name for name in fcos.IN_FEATURES if name not in backbone.output_shape()]
    if missing:
        raise ValueError(
            f"MODEL.FCOS.IN_FEATURES names {missing}, but the backbone returns {list(backbone.output_shape())}."
        )
    if len(fcos.REGRESSION_RANGES) != len(fcos.IN_FEATURES) - 1:
        raise ValueError(
            f"MODEL.FCOS.REGRESSION_RANGES has {len(fcos.REGRESSION_RANGES)} bounds, but between the "
            f"{len(fcos.IN_FEATURES)} levels of MODEL.FCOS.IN_FEATURES there are {len(fcos.IN_FEATURES) - 1}."
        )
