"""Whether two implementations hold the same weights: their raw outputs and their results on the same batch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import torch
from detectron2.structures import Instances
from torch import Tensor

from ..modeling.panoptic_postprocessing import merge_panoptic, select_segments
from .torchvision_reference import FCOSAgreement, TorchvisionWorkload, compare_fcos
from .transformers_workloads import PanopticReferenceWorkload, ReferenceWorkload
from .workloads import OurWorkload

TOLERANCE = 1e-3


@dataclass(frozen=True)
class Agreement:
    """Greatest absolute differences, in fp32.

    Attributes:
        logits: of class logits. boxes: of relative cx, cy, w, h boxes.
        detections: compared detections of all images.
        classes_seen: different classes among them; of one class alone, equal classes would mean little.
        other_count: images with another number of detections. other_class: detections with another class.
        scores: of their scores. corners: of their box corners, relative to the image.
    """

    logits: float
    boxes: float
    detections: int
    classes_seen: int
    other_count: int
    other_class: int
    scores: float
    corners: float

    @property
    def holds(self) -> bool:
        """Every difference within `TOLERANCE` and every class the same."""
        differences = (self.logits, self.boxes, self.scores, self.corners)
        # NaN compares false.
        return self.other_count == self.other_class == 0 and all(x <= TOLERANCE for x in differences)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:.3g}" for name, value in asdict(self).items())

    def summary(self) -> str:
        """A sentence for the report."""
        return (
            f"logits differ by at most {self.logits:.1e}, boxes by {self.boxes:.1e}, scores by {self.scores:.1e}; "
            f"{self.detections} detections of {self.classes_seen} classes, {self.other_class} of another class."
        )


@dataclass(frozen=True)
class PanopticAgreement:
    """Greatest absolute differences, in fp32, of panoptic models.

    The reference's panoptic post-processing has other rules than the published, so its mask logits go through ours.

    Attributes:
        logits: of class logits, relative to their standard deviation. boxes: of relative cx, cy, w, h boxes.
        masks: of all queries' mask logits, the root mean square (of millions, the greatest is chance) relative to their
            standard deviation.
        pixels: the share of pixels in another segment.
        queries: of each image, how many enter its panoptic map. segments: how many are left in it.
    """

    logits: float
    boxes: float
    masks: float
    pixels: float
    queries: tuple[int, ...]
    segments: tuple[int, ...]

    @property
    def holds(self) -> bool:
        """Every difference within `TOLERANCE`."""
        return all(x <= TOLERANCE for x in (self.logits, self.boxes, self.masks, self.pixels))

    def __str__(self) -> str:
        return ", ".join(f"{name} {value}" for name, value in asdict(self).items())

    def summary(self) -> str:
        """A sentence for the report."""
        return (
            f"logits differ by at most {self.logits:.1e} of their deviation, boxes by {self.boxes:.1e}, mask logits "
            f"by {self.masks:.1e} of theirs (root mean square); {100 * self.pixels:.3f}% of the pixels are in another "
            f"segment. Of each image, {', '.join(map(str, self.queries))} queries enter the map, "
            f"{', '.join(map(str, self.segments))} segments are left."
        )


@torch.no_grad()
def compare_outputs(
    ours: OurWorkload, reference: ReferenceWorkload | TorchvisionWorkload
) -> Agreement | PanopticAgreement | FCOSAgreement:
    """Run both once, in evaluation mode, in fp32 without TF32."""
    ours.model.eval()
    reference.model.eval()
    reference.set_auxiliary_losses(False)
    compare = _compare_panoptic if isinstance(reference, PanopticReferenceWorkload) else _compare_boxes
    if isinstance(reference, TorchvisionWorkload):
        compare = compare_fcos
    with full_precision():
        return compare(ours, reference)


def _compare_boxes(ours: OurWorkload, reference: ReferenceWorkload) -> Agreement:
    outputs = reference.outputs()
    own, theirs = reference.in_one_order(ours.model.detect(ours.model.preprocess(ours.inputs)), outputs)
    own_results = [_by_class(result["instances"]) for result in ours.infer()]
    results = [_by_class(clipped(x)) for x in reference.infer()]
    pairs = list(zip(own_results, results, strict=True))
    comparable = [(own, theirs) for own, theirs in pairs if len(own) == len(theirs)]
    classes = torch.cat([theirs.pred_classes for theirs in results])
    return Agreement(
        logits=_difference(own.logits, theirs.logits),
        boxes=_difference(own.boxes, theirs.boxes),
        detections=sum(len(own) for own, _ in comparable),
        classes_seen=len(classes.unique()),
        other_count=len(pairs) - len(comparable),
        other_class=sum(int((own.pred_classes != theirs.pred_classes).sum()) for own, theirs in comparable),
        scores=max((_difference(own.scores, theirs.scores) for own, theirs in comparable), default=0.0),
        corners=max((_difference(_corners(own), _corners(theirs)) for own, theirs in comparable), default=0.0),
    )


def _compare_panoptic(ours: OurWorkload, reference: PanopticReferenceWorkload) -> PanopticAgreement:
    model, outputs = ours.model, reference.outputs()
    images = model.preprocess(ours.inputs)
    detection = model.detect(images)
    expected = outputs.pred_masks
    every = torch.cartesian_prod(*(torch.arange(n, device=expected.device) for n in expected.shape[:2])).unbind(1)
    masks = model.predict_masks(detection.features, detection.hidden, *every).view_as(expected)

    other, queries, segments = 0.0, [], []
    for item, size, logits, of_image, result in zip(
        ours.inputs, images.image_sizes, outputs.logits, expected, ours.infer(), strict=True
    ):
        own, info = result["panoptic_seg"]
        kept, scores, classes = select_segments(logits, model.object_mask_threshold)
        output_size = (item["height"], item["width"])
        theirs, _ = merge_panoptic(
            of_image[kept], scores, classes, model.is_thing[classes], size, output_size, model.small_segment_area
        )
        other = max(other, (own != theirs).float().mean().item())
        queries.append(len(kept))
        segments.append(len(info))
    return PanopticAgreement(
        logits=_relative_difference(detection.outputs.pred_logits, outputs.logits),
        boxes=_difference(detection.outputs.pred_boxes, outputs.pred_boxes),
        masks=((masks - expected).double().square().mean().sqrt() / expected.double().std()).item(),
        pixels=other,
        queries=tuple(queries),
        segments=tuple(segments),
    )


def clipped(instances: Instances) -> Instances:
    """The reference's detections as Detectron2 returns them: clipped to the image, boxes without area dropped."""
    instances.pred_boxes.clip(instances.image_size)
    return instances[instances.pred_boxes.nonempty()]


@contextmanager
def full_precision() -> Iterator[None]:
    """fp32 without TF32, in convolutions (where torch allows it by default) and in matrix products."""
    backends = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [backend.allow_tf32 for backend in backends]
    try:
        for backend in backends:
            backend.allow_tf32 = False
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.allow_tf32 = value


def _by_class(instances: Instances) -> Instances:
    """Sorted by class, in their order within each: nearly equal scores of two classes change places by rounding."""
    return instances[instances.pred_classes.argsort(stable=True)]


def _corners(instances: Instances) -> Tensor:
    height, width = instances.image_size
    return instances.pred_boxes.tensor / instances.pred_boxes.tensor.new_tensor([width, height, width, height])


def _difference(a: Tensor, b: Tensor) -> float:
    return (a - b).abs().max().item() if a.numel() else 0.0


def _relative_difference(a: Tensor, b: Tensor) -> float:
    """Of the deviation of ``b``; infinite or NaN where that is 0."""
    return ((a - b).abs().max() / b.std()).item()
