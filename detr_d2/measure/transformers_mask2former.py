"""``transformers``' Mask2Former on our batch, with our weights.

Its panoptic post-processing resizes masks to 384 x 384 first and gives neither instances nor semantic maps, so it is
timed for less than ours. The norms of its ResNet are batch norms: they are kept in evaluation mode and are not trained.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from ..checkpoint.huggingface_config import model_config
from ..checkpoint.layouts.mask2former import to_transformers
from .transformers_model import check_transformers
from .transformers_reference import to_reference
from .workloads import Agreement, OurWorkload, ReferenceWorkload, relative_difference

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

# What it has beyond our weights: the loss' own buffer, counters of norms, and a norm that nothing reads.
_WITHOUT_COUNTERPART = ("criterion.empty_weight", "num_batches_tracked", "swin.layernorm.weight", "swin.layernorm.bias")


class Mask2FormerTransformersWorkload(ReferenceWorkload):
    """Inference makes panoptic maps.

    Raises:
        ValueError: the images differ in size; then all of it sees the padding, and ours does not.
    """

    check = staticmethod(check_transformers)

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        check_transformers(cfg)
        from transformers import AutoConfig, Mask2FormerForUniversalSegmentation, Mask2FormerImageProcessor

        self.model = Mask2FormerForUniversalSegmentation(AutoConfig.for_model(**model_config(cfg))).eval()
        self.model.load_state_dict(self.model.state_dict() | self.weights(ours), strict=True)
        self.model.to(ours.device)
        self.encoder = self.model.model.pixel_level_module.encoder
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.requires_grad_(False)
        self.description = {"model": "transformers Mask2FormerForUniversalSegmentation"}
        self.batch = to_reference(cfg, inputs, ours.size_divisibility)
        if len({item["image"].shape for item in inputs}) > 1:
            raise ValueError("--reference transformers lets padding into Mask2Former: give one --size.")
        height, width = self.batch.pixel_values.shape[-2:]
        self.mask_labels = [
            F.pad(label["masks"].float(), (0, width - label["masks"].shape[2], 0, height - label["masks"].shape[1]))
            for label in self.batch.labels
        ]
        self.processor = Mask2FormerImageProcessor()
        self.settings, self.stuff = ours.settings, set((~ours.is_thing).nonzero()[:, 0].tolist())

    def weights(self, ours: nn.Module) -> dict[str, Tensor]:
        """Ours under its names.

        Raises:
            RuntimeError: it has others, or lacks some; then ``transformers`` has changed them.
        """
        state = to_transformers(ours.state_dict())
        differing = {x for x in state.keys() ^ self.model.state_dict().keys() if not x.endswith(_WITHOUT_COUNTERPART)}
        if differing:
            raise RuntimeError(f"transformers' Mask2Former has other names than ours, such as {min(differing)}.")
        return state

    def outputs(self, **labels: list[Tensor]) -> "ModelOutput":
        """What it returns before post-processing; with ``labels`` also the loss."""
        return self.model(pixel_values=self.batch.pixel_values, **labels)

    def infer(self) -> list[dict]:
        """Each image's map and segments, by the reference's own rules."""
        return self.processor.post_process_panoptic_segmentation(
            self.outputs(),
            threshold=self.settings.object_mask_threshold,
            overlap_mask_area_threshold=self.settings.overlap_threshold,
            label_ids_to_fuse=self.stuff,
            target_sizes=[tuple(size) for size in self.batch.target_sizes.tolist()],
        )

    def loss(self) -> Tensor:
        classes = [label["class_labels"] for label in self.batch.labels]
        return self.outputs(mask_labels=self.mask_labels, class_labels=classes).loss.squeeze()

    def optimizer_view(self) -> nn.Module:
        return nn.ModuleDict({"backbone": self.encoder, "rest": self.model})

    def training_step(self, cfg: CfgNode, optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        step = super().training_step(cfg, optimizer)
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return step

    def compare(self, ours: OurWorkload) -> Agreement:
        """The differences of class and mask logits, relative to their deviation. Of the masks, of which a query's sign
        at one location may decide what a layer looks at, it is the root mean square.
        """
        model, outputs = ours.model, self.outputs()
        predictions = model.detect(model.preprocess(ours.inputs)).predictions
        masks = torch.einsum("bqc,bchw->bqhw", predictions.masks.embeddings[-1], predictions.masks.features)
        expected = outputs.masks_queries_logits
        differences = {
            "logits": relative_difference(predictions.pred_logits, outputs.class_queries_logits),
            "masks": ((masks - expected).square().mean().sqrt() / expected.std()).item(),
        }
        segments = [len(result["panoptic_seg"][1]) for result in ours.infer()]
        return Agreement(
            differences,
            {"segments": segments},
            "logits differ by at most {logits:.1e} of their deviation, mask logits by {masks:.1e} of theirs (root "
            "mean square); {segments} segments of each image.",
        )
