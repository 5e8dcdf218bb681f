"""What can be wrong with a dataset, and for whom it is checked."""

import logging
import os
from dataclasses import dataclass
from typing import Any

from detectron2.config import CfgNode

from ...facts import max_objects_of, model_class_names, model_facts, num_classes_of, reads_segments, value_of

ERROR, WARNING = "error", "warning"
MISSING_FILES = ("missing-image", "missing-png")
_SHOWN = 5  # problems that an error of a loader lists


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        severity: "error" where training would not run, "warning" where it would, but with less or other data than the
            files seem to hold.
        kind: a short name, the same for all problems of a kind.
        file: the image, PNG or JSON that is concerned; "" for the dataset as a whole.
        id: of the image, annotation, category or segment, as the kind says; None for a file as a whole.
        message: what is wrong. Of a file or dataset as a whole, it goes on a sentence that begins with its name.
    """

    severity: str
    kind: str
    file: str
    id: Any
    message: str

    def __str__(self) -> str:
        where = self.file if self.id is None else f"{self.file}, id {self.id}"
        return f"{self.severity}: {self.kind}: {where}: {self.message}"


class BadDatasetError(ValueError):
    """An error that names the dataset, and says what is wrong with it."""


class Problems(list[Problem]):
    """Problems in the order in which they were found."""

    def add(self, kind: str, file: str, ident: Any, message: str, *, is_error: bool) -> None:
        """Append one."""
        is_short = ident is None or isinstance(ident, (int, float))  # a file may hold megabytes in its place
        ident = ident if is_short else str(ident)[:100]
        self.append(Problem(ERROR if is_error else WARNING, kind, file, ident, message[:1000]))

    def error(self, kind: str, file: str, ident: Any, message: str) -> None:
        """Append an error."""
        self.add(kind, file, ident, message, is_error=True)

    def warn(self, kind: str, file: str, ident: Any, message: str) -> None:
        """Append a warning."""
        self.add(kind, file, ident, message, is_error=False)

    @property
    def errors(self) -> list[Problem]:
        """Those that are errors."""
        return [problem for problem in self if problem.severity == ERROR]

    def raise_first(self, dataset_name: str) -> None:
        """Raise the first error with all of its kind, as a `BadDatasetError`, or a `FileNotFoundError` where files are
        missing. Nothing happens where there is no error.
        """
        if errors := self.errors:
            kind = FileNotFoundError if errors[0].kind in MISSING_FILES else BadDatasetError
            raise kind(_described(errors, errors[0].kind, dataset_name))

    def log_warnings(self, dataset_name: str) -> None:
        """Log the warnings, those of a kind together."""
        warnings = [problem for problem in self if problem.severity == WARNING]
        for kind in dict.fromkeys(problem.kind for problem in warnings):
            logging.getLogger(__name__).warning(_described(warnings, kind, dataset_name))


def _described(problems: list[Problem], kind: str, dataset_name: str) -> str:
    """How many problems of one kind there are, and the first of them."""
    same = [problem for problem in problems if problem.kind == kind]
    if not same[0].file:
        return f"Dataset {dataset_name!r} {same[0].message}."
    times = f"{len(same)} {'time' if len(same) == 1 else 'times'}"
    lines = [f"Dataset {dataset_name!r} has the {same[0].severity} {kind!r} {times}."]
    if kind in MISSING_FILES:
        lines[0] += f" Check the folder that it was registered with (DETECTRON2_DATASETS: {datasets_root()})."
    lines[0] += " tools/check_dataset.py lists every problem of a dataset in COCO's formats. The first:"
    shown = [p.file if p.id is None else f"{p.file}, {p.id}" for p in same[:_SHOWN]]
    return "\n".join(lines + [f"  {where}: {p.message}" for where, p in zip(shown, same, strict=False)])


def datasets_root() -> str:
    """What the environment variable DETECTRON2_DATASETS says now."""
    root = os.environ.get("DETECTRON2_DATASETS")
    return f"now {root!r}" if root else "now not set: ./datasets"


@dataclass(frozen=True)
class Demands:
    """What a model asks of a dataset, on which it depends whether a problem is an error.

    Attributes:
        is_train: the model learns from the dataset; else it is evaluated on it.
        drops_degenerate_boxes: boxes without area are dropped (``INPUT.DROP_DEGENERATE_BOXES``).
        skips_unreadable_images: images that are missing or broken are skipped (``INPUT.SKIP_UNREADABLE_IMAGES``).
        needs_masks: the model learns masks from the segmentations (``MODEL.MASK_ON``).
        learns_boxes, learns_segments: the model learns from annotated boxes, from panoptic segments; without a model,
            either must be possible.
        annotation_files: entries of Detectron2's dicts that name files which are read beside the image.
        num_classes: of the model; None: not checked. max_objects: an image may have; None: any number.
        max_detections: of an image, in evaluation.
        semantic_classes: of the semantic maps that the model learns from; None: it needs none.
        thing_classes: contiguous ids of things that the model was told; (): the dataset's.
        keys: the config keys that hold the last four, by their name here.
    """

    is_train: bool = True
    drops_degenerate_boxes: bool = False
    skips_unreadable_images: bool = False
    needs_masks: bool = False
    learns_boxes: bool = True
    learns_segments: bool = True
    annotation_files: tuple[str, ...] = ()
    num_classes: int | None = None
    max_objects: int | None = None
    max_detections: int | None = None
    semantic_classes: int | None = None
    thing_classes: tuple[int, ...] = ()
    keys: dict[str, str] | None = None

    @classmethod
    def of(cls, cfg: CfgNode, *, is_train: bool = True, of_model: bool = True) -> "Demands":
        """The demands of a config; without what depends on its model unless ``of_model``."""
        skips = cfg.INPUT.SKIP_UNREADABLE_IMAGES
        drops = cfg.INPUT.DROP_DEGENERATE_BOXES
        most = cfg.TEST.DETECTIONS_PER_IMAGE
        if not of_model:
            return cls(is_train, drops, skips, cfg.MODEL.MASK_ON, max_detections=most)
        facts, segments, own_mapper = model_facts(cfg), reads_segments(cfg), cfg.INPUT.DATASET_MAPPER == ""
        reads_maps = is_train or bool(facts.semantic_classes)  # whatever Detectron2's mapper finds, or the evaluator
        try:
            num_classes = num_classes_of(cfg)[0]
        except ValueError:  # it asks for the classes of a dataset that does not say them, which is reported itself
            num_classes = None
        if not is_train and not segments and model_class_names(cfg) is not None:
            num_classes = None  # the classes of test sets are compared by name, and may be fewer
        return cls(
            is_train,
            drops,
            skips and not own_mapper,  # Detectron2's own mapper skips nothing
            needs_masks=cfg.MODEL.MASK_ON and not segments,
            learns_boxes=not segments,
            learns_segments=segments,
            annotation_files=("pan_seg_file_name",) * segments + ("sem_seg_file_name",) * (own_mapper and reads_maps),
            num_classes=num_classes,
            max_objects=max_objects_of(cfg),
            max_detections=most,
            semantic_classes=value_of(cfg, facts.semantic_classes) if facts.semantic_classes else None,
            thing_classes=tuple(value_of(cfg, facts.thing_classes)) if facts.thing_classes else (),
            keys={name: getattr(facts, name) for name in ("num_classes", "max_objects", "thing_classes")}
            | {"semantic_classes": facts.semantic_classes},
        )

    def key(self, name: str) -> str:
        """The config key that holds ``name``, one of the attributes."""
        return (self.keys or {}).get(name) or name
