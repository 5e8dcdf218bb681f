"""``transformers``' models on our batch, doing the work that ours do.

They are given the normalised and padded batch on its device, and end at their own ``post_process_object_detection``
without a threshold, or ``post_process_panoptic_segmentation``, which gives no instance masks: they are timed for less
than ours.

A box model that is frozen in ours is frozen in training here too, without dropout in both. The auxiliary losses are
computed for the same amount of work, but with ``auxiliary_loss=True`` ``transformers`` feeds normed outputs back into
DETR's decoder, so that the values of its losses are wrong: they are not compared.

Legend: B batch, H W size, Q queries, K classes.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn
from torchvision.ops import box_convert

from ..checkpoint.huggingface_config import backbone_of
from ..modeling.masks import merge_panoptic
from ..structures import PaddedImages
from .transformers_model import (
    build_transformers,
    check_transformers,
    detector,
    optimizer_view,
)
from .workloads import Agreement, OurWorkload, ReferenceWorkload, difference, relative_difference

if TYPE_CHECKING:
    from transformers.utils import ModelOutput


class RawOutputs(NamedTuple):
    """``logits`` B x Q x K of classes, and relative cx, cy, w, h ``boxes`` B x Q x 4, of the last layer."""

    logits: Tensor
    boxes: Tensor

    def sorted_by(self, keys: Tensor) -> "RawOutputs":
        """Each image's queries in the order of B x Q ``keys``."""
        order = keys.argsort(dim=1)[..., None]
        return RawOutputs(*(x.gather(1, order.expand_as(x)) for x in self))


class ReferenceInputs(NamedTuple):
    """A batch in the interface of ``transformers``' DETR models, on the model's device.

    Attributes:
        pixel_values: B x 3 x H x W, normalised and padded.
        pixel_mask: B x H x W, 1 = image.
        labels: ``class_labels``, relative cx, cy, w, h ``boxes`` and, where there are any, ``masks`` of each image.
        target_sizes: B x 2, height and width of the results.
    """

    pixel_values: Tensor
    pixel_mask: Tensor
    labels: list[dict[str, Tensor]]
    target_sizes: Tensor


def to_reference(cfg: CfgNode, inputs: list[dict], size_divisibility: int = 1) -> ReferenceInputs:
    """Our batch for the reference, normalised with the cfg's pixel statistics and padded as the model pads it: to
    multiples of ``size_divisibility``.
    """
    mean, std = (torch.tensor(x).view(-1, 1, 1) for x in (cfg.MODEL.PIXEL_MEAN, cfg.MODEL.PIXEL_STD))
    images = PaddedImages.from_tensors([(item["image"] - mean) / std for item in inputs], size_divisibility)
    device = torch.device(cfg.MODEL.DEVICE)
    labels = []
    for item, (height, width) in zip(inputs, images.image_sizes, strict=True):
        boxes = item["instances"].gt_boxes.tensor / torch.tensor([width, height, width, height])
        classes = item["instances"].gt_classes
        labels.append({"class_labels": classes.to(device), "boxes": box_convert(boxes, "xyxy", "cxcywh").to(device)})
        if isinstance(item["instances"].get_fields().get("gt_masks"), BitMasks):
            labels[-1]["masks"] = item["instances"].gt_masks.tensor.to(device)
    return ReferenceInputs(
        images.tensor.to(device),
        (~images.mask).long().to(device),
        labels,
        torch.tensor([(item["height"], item["width"]) for item in inputs], device=device),
    )


class TransformersWorkload(ReferenceWorkload):
    """``transformers``' DETR on the same batch.

    Attributes:
        detections: further arguments of its post-processing.
    """

    check = staticmethod(check_transformers)

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        self.model = build_transformers(cfg, ours).eval()
        self.description = {
            "model": f"transformers {type(self.model).__name__}",
            "backbone": "torchvision (transformers' ResNet has no DC5)" if backbone_of(cfg) == "timm" else "its own",
            "attention": self.model.config._attn_implementation,
        }
        self.batch = to_reference(cfg, inputs, max(1, ours.backbone.size_divisibility))
        from transformers import DetrImageProcessor

        self.processor = DetrImageProcessor()
        self.detections: dict[str, int] = {}

    def outputs(self, **labels: Any) -> "ModelOutput":
        """What it returns before post-processing; with ``labels`` also the loss."""
        return self.model(pixel_values=self.batch.pixel_values, pixel_mask=self.batch.pixel_mask, **labels)

    def infer(self) -> list[Instances]:
        batch, outputs = self.batch, self.outputs()
        results = self.processor.post_process_object_detection(
            outputs, threshold=0.0, target_sizes=batch.target_sizes, **self.detections
        )
        return [
            Instances(
                tuple(size),
                pred_boxes=Boxes(result["boxes"]),
                scores=result["scores"],
                pred_classes=result["labels"],
            )
            for result, size in zip(results, batch.target_sizes.tolist(), strict=True)
        ]

    def refuse_padding(self, where: str) -> None:
        """Raise a ValueError if images differ in size, for a reference that lets padding into ``where``."""
        if not self.batch.pixel_mask.all():
            raise ValueError(
                f"--reference transformers lets padding into the {where}: give one --size, and in training too all "
                "images are of it."
            )

    def loss(self) -> Tensor:
        return self.outputs(labels=self.batch.labels).loss

    def set_auxiliary_losses(self, enabled: bool) -> None:
        self.model.config.auxiliary_loss = enabled

    def optimizer_view(self) -> nn.Module:
        return optimizer_view(self.model)

    def in_one_order(self, detection: Any, outputs: "ModelOutput") -> tuple[RawOutputs, RawOutputs]:
        """Ours, from what our model's ``detect`` returned, and the reference's, each query beside its counterpart."""
        own = detection.predictions
        return RawOutputs(own.pred_logits, own.pred_boxes), RawOutputs(outputs.logits, outputs.pred_boxes)

    def compare(self, ours: OurWorkload) -> Agreement:
        """The differences of logits and of boxes; of detections, taken by class, those of scores, of corners relative
        to the image, and how many images have another number of them and how many have another class.
        """
        own, theirs = self.in_one_order(ours.model.detect(ours.model.preprocess(ours.inputs)), self.outputs())
        own_results = [_by_class(result["instances"]) for result in ours.infer()]
        # The reference's detections as Detectron2 returns them: clipped to the image, boxes without area dropped.
        results = [_by_class(detector_postprocess(x, *x.image_size)) for x in self.infer()]
        pairs = [pair for pair in zip(own_results, results, strict=True) if len(pair[0]) == len(pair[1])]
        differences = {
            "logits": difference(own.logits, theirs.logits),
            "boxes": difference(own.boxes, theirs.boxes),
            "other_count": len(results) - len(pairs),
            "other_class": sum(int((a.pred_classes != b.pred_classes).sum()) for a, b in pairs),
            "scores": max((difference(a.scores, b.scores) for a, b in pairs), default=0.0),
            "corners": max((difference(_corners(a), _corners(b)) for a, b in pairs), default=0.0),
        }
        classes = torch.cat([theirs.pred_classes for theirs in results])
        # Of detections of one class alone, equal classes would mean little.
        details = {"detections": sum(len(own) for own, _ in pairs), "classes_seen": len(classes.unique())}
        return Agreement(
            differences,
            details,
            "logits differ by at most {logits:.1e}, boxes by {boxes:.1e}, scores by {scores:.1e}; {detections} "
            "detections of {classes_seen} classes, {other_class} of another class.",
        )


class PanopticTransformersWorkload(TransformersWorkload):
    """``transformers``' DETR with masks on the same batch.

    Raises:
        ValueError: the images differ in size; then its masks see the padding, and ours do not.
    """

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        super().__init__(cfg, ours, inputs)
        self.refuse_padding("masks of panoptic models")
        self.is_frozen = ours.box_model_is_frozen
        self.threshold = ours.object_mask_threshold
        self.stuff = set((~ours.is_thing).nonzero()[:, 0].tolist())

    def infer(self) -> list[dict]:
        """Each image's map and segments, by the reference's own rules."""
        return self.processor.post_process_panoptic_segmentation(
            self.outputs(),
            threshold=self.threshold,
            label_ids_to_fuse=self.stuff,
            target_sizes=[tuple(size) for size in self.batch.target_sizes.tolist()],
        )

    def set_auxiliary_losses(self, enabled: bool) -> None:
        super().set_auxiliary_losses(enabled and not self.is_frozen)

    def training_step(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        step = super().training_step(cfg, optimizer)
        if self.is_frozen:
            detector(self.model).eval()
        return step

    def compare(self, ours: OurWorkload) -> Agreement:
        """The differences of logits and mask logits, relative to their deviation, of boxes, and the share of pixels in
        another segment. Of the mask logits of all queries it is the root mean square: of millions, the greatest is
        chance. The reference's panoptic post-processing has other rules than the published, so its mask logits go
        through ours.
        """
        model, outputs = ours.model, self.outputs()
        images = model.preprocess(ours.inputs)
        detection = model.detect(images)
        expected = outputs.pred_masks
        every = torch.cartesian_prod(*(torch.arange(n, device=expected.device) for n in expected.shape[:2])).unbind(1)
        masks = model.predict_masks(model.mask_inputs(detection), *every).view_as(expected)

        other, queries, segments = 0.0, [], []
        for item, size, logits, of_image, result in zip(
            ours.inputs, images.image_sizes, outputs.logits, expected, ours.infer(), strict=True
        ):
            own, info = result["panoptic_seg"]
            kept, scores, classes = model.detr.scoring.segments(logits, model.object_mask_threshold)
            output_size = (item["height"], item["width"])
            theirs, _ = merge_panoptic(
                of_image[kept], scores, classes, model.is_thing[classes], size, output_size, model.small_segment_area
            )
            other = max(other, (own != theirs).float().mean().item())
            queries.append(len(kept))
            segments.append(len(info))
        differences = {
            "logits": relative_difference(detection.predictions.pred_logits, outputs.logits),
            "boxes": difference(detection.predictions.pred_boxes, outputs.pred_boxes),
            "masks": ((masks - expected).double().square().mean().sqrt() / expected.double().std()).item(),
            "pixels": other,
        }
        return Agreement(
            differences,
            {"queries": queries, "segments": segments},
            "logits differ by at most {logits:.1e} of their deviation, boxes by {boxes:.1e}, mask logits by "
            "{masks:.1e} of theirs (root mean square); {pixels:.3%} of the pixels are in another segment. Of "
            "each image, {queries} queries enter the map, {segments} segments are left.",
        )


class DeformableTransformersWorkload(TransformersWorkload):
    """``transformers``' Deformable DETR on the same batch.

    It lacks the loss of two-stage proposals, so its own criterion computes it here, all objects being of class 0. Its
    loss of classes has another weight than the published one, which costs nothing. At inference it runs the heads of
    every decoder layer, and it checks every encoder layer's output for infinities in training: that is its own.

    Raises:
        ValueError: the images differ in size; then its norms see the padding, and ours do not.
    """

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        super().__init__(cfg, ours, inputs)
        self.refuse_padding("norms of Deformable DETR")
        from transformers import DeformableDetrImageProcessor
        from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

        self.processor = DeformableDetrImageProcessor()
        self.detections = {"top_k": ours.scoring.max_detections}
        config = self.model.config
        costs = {name: getattr(config, name) for name in ("class_cost", "bbox_cost", "giou_cost")}
        self.criterion = DeformableDetrImageLoss(
            matcher=DeformableDetrHungarianMatcher(**costs),
            num_classes=config.num_labels,
            focal_alpha=config.focal_alpha,
            losses=["labels", "boxes"],
        )

    def loss(self) -> Tensor:
        outputs = self.outputs(labels=self.batch.labels)
        if outputs.enc_outputs_class is None:
            return outputs.loss
        return outputs.loss + self.proposal_loss(outputs)

    def proposal_loss(self, outputs: "ModelOutput") -> Tensor:
        """What the official model adds for the encoder's proposals, with the weights of the other losses."""
        objects = [label | {"class_labels": torch.zeros_like(label["class_labels"])} for label in self.batch.labels]
        proposals = {"logits": outputs.enc_outputs_class, "pred_boxes": outputs.enc_outputs_coord_logits.sigmoid()}
        config = self.model.config
        losses = self.criterion(proposals, objects)
        return (
            losses["loss_ce"]
            + config.bbox_loss_coefficient * losses["loss_bbox"]
            + config.giou_loss_coefficient * losses["loss_giou"]
        )

    def in_one_order(self, detection: Any, outputs: "ModelOutput") -> tuple[RawOutputs, RawOutputs]:
        """Two-stage queries are sorted by their locations: nearly equal objectness changes places by rounding."""
        own, theirs = super().in_one_order(detection, outputs)
        proposals = detection.hidden.proposals
        if proposals is None:
            return own, theirs
        selected = outputs.enc_outputs_class[..., 0].topk(own.logits.shape[1], dim=1).indices
        return own.sorted_by(proposals.selected), theirs.sorted_by(selected)


def _by_class(instances: Instances) -> Instances:
    """Sorted by class, in their order within each: nearly equal scores of two classes change places by rounding."""
    return instances[instances.pred_classes.argsort(stable=True)]


def _corners(instances: Instances) -> Tensor:
    height, width = instances.image_size
    return instances.pred_boxes.tensor / instances.pred_boxes.tensor.new_tensor([width, height, width, height])
