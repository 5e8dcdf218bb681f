"""The graph of Mask2Former: classes and masks of its queries, of which all of its results are made.

Legend: B batch, Q queries, K classes, h w size of the mask logits.
"""

import copy
from typing import Any

import torch
from detectron2.structures import Instances
from torch import Tensor, nn

from ..modeling import Mask2Former
from ..structures import DotMasks, Frames, Predictions
from .graphs import Graph, exports
from .images import SizedImages


@exports(Mask2Former)
class Mask2FormerGraph(Graph):
    """``scores`` and ``classes`` of each query's best class, B x Q; ``masks``, B x Q x h x w: logits at the stride that
    is its ``mask_stride``; and ``probabilities`` of all classes and of none, B x Q x K + 1, which semantic maps and
    further classes of a mask need.

    To draw a mask, cut it to the image's size rounded up to ``frame_multiple``, resize it bilinearly to that size,
    cut it to the image, and take what is above 0.

    Args:
        model: it is copied; "instances" of the copy are of all classes, whatever their score.
    """

    output_names = ("scores", "classes", "masks", "probabilities")
    has_dynamic_size = False

    def __init__(self, model: nn.Module, max_detections: int | None = None) -> None:
        model = copy.deepcopy(model)
        super().__init__(model, max_detections)
        self.mask_stride = model.backbone.output_shape()[model.in_features[0]].stride
        self.facts = {
            "mask_stride": self.mask_stride,
            "frame_multiple": model.size_divisibility,
            "thing_classes": model.is_thing.nonzero()[:, 0].tolist(),
            "object_mask_threshold": model.settings.object_mask_threshold,
            "overlap_threshold": model.settings.overlap_threshold,
        }
        model.is_thing.fill_(True)
        model.settings = model.settings._replace(instances=True, instance_min_score=0.0)

    @property
    def size_multiple(self) -> int:
        return self.model.size_divisibility

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        model = self.model
        batch = SizedImages.normalised(images, sizes, model.pixel_mean, model.pixel_std, model.size_divisibility)
        predictions = model.detect(batch).predictions
        probabilities = predictions.pred_logits.float().softmax(-1)
        scores, classes = probabilities[..., :-1].max(-1)
        masks = torch.einsum("bqc,bchw->bqhw", predictions.masks.embeddings[-1], predictions.masks.features)
        return scores, classes, masks, probabilities

    def results(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> dict[str, Any]:
        """By the model's own post-processing, to which a query's logits are the product of a row of ones and zeros."""
        masks, model = outputs["masks"], self.model
        stride, multiple = self.mask_stride, model.size_divisibility
        frame = tuple(-(-side // multiple) * multiple for side in size)
        own = DotMasks(
            torch.eye(len(masks))[None, None],
            masks[None, :, : frame[0] // stride, : frame[1] // stride],
            Frames([frame], frame),
        )
        return model.postprocess_image(
            Predictions(outputs["probabilities"].log()[None, None], masks=own), 0, size, size
        )

    def instances(self, outputs: dict[str, Tensor], size: tuple[int, int]) -> Instances:
        return self.results(outputs, size)["instances"]

    def least_score(self, outputs: dict[str, Tensor]) -> float:
        """Of the best pairs of query and class, rounding decides which of equals are the last."""
        pairs = outputs["probabilities"][..., :-1].flatten()
        count = self.model.settings.max_instances
        return -1.0 if len(pairs) <= count else float(pairs.topk(count).values[-1])
