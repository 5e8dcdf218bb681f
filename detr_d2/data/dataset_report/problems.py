"""What can be wrong with a data set, and for whom it is checked."""

from dataclasses import asdict, dataclass
from typing import Any

from detectron2.config import CfgNode

from ...facts import max_objects_of, num_classes_of, reads_segments

ERROR, WARNING = "error", "warning"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: "error" where training would not run, "warning" where it would, but with less or other data than the
            files seem to hold.
        kind: a short name, the same for all problems of a kind.
        file: the image, PNG or JSON that is concerned.
        id: of the image, annotation, category or segment, as the kind says; None for a file as a whole.
        message: what is wrong.
    """

    severity: str
    kind: str
    file: str
    id: Any
    message: str

    def __str__(self) -> str:
        where = self.file if self.id is None else f"{self.file}, id {self.id}"
        return f"{self.severity}: {self.kind}: {where}: {self.message}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Demands:
    """What the training asks for, on which it depends whether a problem is an error.

    Attributes:
        drops_degenerate_boxes: boxes without area are dropped (``INPUT.DROP_DEGENERATE_BOXES``).
        skips_unreadable_images: images that are missing or broken are skipped (``INPUT.SKIP_UNREADABLE_IMAGES``).
        needs_masks: the model learns masks from the segmentations (``MODEL.MASK_ON``).
        learns_boxes, learns_segments: the model learns from annotated boxes, from panoptic segments; without a model,
            either must be possible.
        num_classes: of the model; None: not checked. num_classes_key: of the config.
        max_objects: an image may have; None: any number.
    """

    drops_degenerate_boxes: bool = False
    skips_unreadable_images: bool = False
    needs_masks: bool = False
    learns_boxes: bool = True
    learns_segments: bool = True
    num_classes: int | None = None
    num_classes_key: str = ""
    max_objects: int | None = None

    @classmethod
    def of(cls, cfg: CfgNode, *, of_model: bool = True) -> "Demands":
        """Those of a config; without what depends on its model unless ``of_model``."""
        segments = of_model and reads_segments(cfg)
        try:
            num_classes, key = num_classes_of(cfg) if of_model else (None, "")
        except ValueError:  # it asks for the classes of a dataset whose files do not say them, which is reported
            num_classes, key = None, ""
        return cls(
            drops_degenerate_boxes=cfg.INPUT.DROP_DEGENERATE_BOXES,
            skips_unreadable_images=cfg.INPUT.SKIP_UNREADABLE_IMAGES,
            needs_masks=cfg.MODEL.MASK_ON and not segments,
            learns_boxes=not segments,
            learns_segments=segments or not of_model,
            num_classes=num_classes,
            num_classes_key=key,
            max_objects=max_objects_of(cfg) if of_model else None,
        )


class Problems(list[Problem]):
    """Problems in the order in which they were found."""

    def add(self, kind: str, file: str, ident: Any, message: str, *, is_error: bool) -> None:
        self.append(Problem(ERROR if is_error else WARNING, kind, file, ident, message))

    def error(self, kind: str, file: str, ident: Any, message: str) -> None:
        self.add(kind, file, ident, message, is_error=True)

    def warn(self, kind: str, file: str, ident: Any, message: str) -> None:
        self.add(kind, file, ident, message, is_error=False)
