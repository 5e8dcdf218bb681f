"""What a detection transformer's heads return.

Legend: L decoder layers, B batch, Q queries, K classes (with the no-object class where the model has one).
"""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class DetectionOutputs:
    """Predictions of all decoder layers that were asked for, stacked, the last layer last.

    Attributes:
        logits: L x B x Q x K.
        boxes: L x B x Q x 4, cx, cy, w, h relative to each image's own (unpadded) size, in [0, 1].
    """

    logits: Tensor
    boxes: Tensor

    @property
    def pred_logits(self) -> Tensor:
        """B x Q x K, the last layer's."""
        return self.logits[-1]

    @property
    def pred_boxes(self) -> Tensor:
        """B x Q x 4, the last layer's."""
        return self.boxes[-1]

    @property
    def aux_outputs(self) -> list["DetectionOutputs"]:
        """The layers before the last, one each."""
        return [
            DetectionOutputs(logits[None], boxes[None])
            for logits, boxes in zip(self.logits[:-1], self.boxes[:-1], strict=True)
        ]

    def of_image(self, index: int) -> "DetectionOutputs":
        """One image's, as a batch of one."""
        return DetectionOutputs(self.logits[:, index : index + 1], self.boxes[:, index : index + 1])
