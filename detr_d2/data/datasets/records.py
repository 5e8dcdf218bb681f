"""The images of files in COCO's formats as Detectron2's dicts, and what of the annotations cannot become part of them.

Training and tools/check_dataset.py both begin here.

Legend: I images, N annotations.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from detectron2.structures import BoxMode

from ..checks.problems import Problems
from ..checks.rules import Objects, Records, is_in
from .coco_json import CocoJson, annotations_of, name_of, usable_annotations_of
from .packing import USABLE
from .values import is_dicts

_KEYS = ("id", "iscrowd", "category_id", "bbox", "area", "segmentation")
_MAX_SEGMENT_ID = 2**24 - 1  # what a PNG of 3 x 8 bits holds


@dataclass(frozen=True)
class Segments:
    """Where the segments of images are.

    Attributes:
        file: the panoptic JSON.
        row: I, the place of each image's annotation in it; -1 where there is none.
        png_root, map_root: the folders of the panoptic PNGs and of the semantic maps; "": there are none of these.
        classes: contiguous ones by category id, and which of these are things; None: segments keep those of the file.
    """

    file: CocoJson
    row: np.ndarray
    png_root: str
    map_root: str
    classes: Mapping[int, int] | None = None

    def of(self, image: int) -> dict[str, Any]:
        """The entries of a record, none where the image has no annotation."""
        if self.row[image] < 0:
            return {}
        annotation, entries = self.file.annotations[int(self.row[image])], {}
        if self.png_root:
            entries["pan_seg_file_name"] = os.path.join(self.png_root, annotation["file_name"])
        if self.map_root:
            entries["sem_seg_file_name"] = os.path.join(self.map_root, annotation["file_name"])
        infos, things, classes = annotation["segments_info"], self.file.things, self.classes
        if classes is None:
            entries["segments_info"] = infos
        elif self.png_root:
            ids = [segment["category_id"] for segment in infos]
            kinds = [{"isthing": ident in things, "category_id": classes[ident]} for ident in ids]
            entries["segments_info"] = [{**segment, **kind} for segment, kind in zip(infos, kinds, strict=True)]
        return entries


@dataclass(frozen=True, eq=False)
class PackedRecords(Records):
    """Detectron2's dicts of the images of a file, in the order of their ids; each is made when it is asked for, so a
    change of one is lost.

    Attributes:
        boxes: the file.
        image_root: the folder of its images.
        segments: of panoptic data.
        classes: contiguous ones by category id, in the order of the ids; None: objects keep the ids of the file.
        chosen: which images there are, as places in the file's arrays; None: all.
        kept: N, which annotations there are; None: all.
    """

    boxes: CocoJson
    image_root: str
    segments: Segments | None = None
    classes: Mapping[int, int] | None = None
    chosen: np.ndarray | None = None
    kept: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.boxes.arrays["image_id"]) if self.chosen is None else len(self.chosen)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        arrays, image = self.boxes.arrays, self._image(index)
        record = {"file_name": self.file_of(image), "image_id": int(arrays["image_id"][image])}
        record |= {key: int(arrays[key][image]) for key in ("height", "width")}
        start, end = arrays["first"][image : image + 2].tolist()
        objects = map(self.object_of, usable_annotations_of(arrays, start, end))
        if self.kept is not None:
            kept = self.kept[start:end]
            objects = (item for item, is_kept in zip(objects, kept, strict=True) if is_kept)
        record["annotations"] = list(objects)
        return {**record, **(self.segments.of(image) if self.segments else {})}

    def _image(self, index: int) -> int:
        index = range(len(self))[index]
        return index if self.chosen is None else int(self.chosen[index])

    def object_of(self, annotation: dict[str, Any]) -> dict[str, Any]:
        """What is learnt of an annotation."""
        item = {key: annotation[key] for key in _KEYS if key in annotation} | {"bbox_mode": BoxMode.XYWH_ABS}
        if self.classes is not None:
            item["category_id"] = self.classes[item["category_id"]]
        return item

    def file_of(self, image: int) -> str:
        """The file of an image, by its place in the arrays."""
        return os.path.join(self.image_root, name_of(self.boxes.arrays, image))

    def take(self, indices: np.ndarray) -> "PackedRecords":
        """Some of the images."""
        return replace(self, chosen=indices.astype(np.int32) if self.chosen is None else self.chosen[indices])

    def has(self, key: str) -> bool:
        return len(self) > 0 and key in self[0]

    def with_objects(self) -> "PackedRecords":
        objects, has_objects = self.objects(), np.zeros(len(self), dtype=bool)
        has_objects[objects.image[objects.counts]] = True
        chosen = np.flatnonzero(has_objects)
        logging.getLogger(__name__).info(
            f"Removed {len(self) - len(chosen)} images with no usable annotations. {len(chosen)} images left."
        )
        return self if len(chosen) == len(self) else self.take(chosen)

    def sizes(self) -> np.ndarray:
        arrays, chosen = self.boxes.arrays, slice(None) if self.chosen is None else self.chosen
        return np.stack([arrays["width"][chosen], arrays["height"][chosen]], axis=1)

    def files(self) -> tuple[list[str], list[int]]:
        chosen = np.arange(len(self)) if self.chosen is None else self.chosen
        idents = self.boxes.arrays["image_id"][chosen]
        return [self.file_of(image) for image in chosen.tolist()], idents.tolist()

    def objects(self) -> "PackedObjects":
        return PackedObjects(self)


class PackedObjects(Objects):
    """The annotations of `PackedRecords` in the columns that the file has."""

    key = "annotations"

    def __init__(self, records: PackedRecords) -> None:
        self.records, self._arrays = records, records.boxes.arrays
        first, image = self._arrays["first"], self._arrays["image"]
        self._rows: slice | np.ndarray = slice(int(first[0]), len(image))  # of the arrays
        self.image = image[self._rows]
        if records.chosen is not None:
            lengths = (first[1:] - first[:-1])[records.chosen]
            self.image = np.repeat(np.arange(len(lengths), dtype=np.int32), lengths)
            if len(self.image) < len(image) - first[0] or (np.diff(records.chosen) < 0).any():
                starts = first[:-1][records.chosen] - np.cumsum(lengths) + lengths
                self._rows = np.repeat(starts, lengths) + np.arange(len(self.image))
        if records.kept is not None:
            kept = records.kept[self._rows]
            rows = np.arange(self._rows.start, self._rows.stop) if isinstance(self._rows, slice) else self._rows
            self.image, self._rows = self.image[kept], rows[kept]
        self.items = _Items(records, self._rows)

    def column(self, name: str) -> np.ndarray:
        """N, one of the columns of `detr_d2.data.datasets.packing`."""
        return self._arrays[name][self._rows]

    @cached_property
    def counts(self) -> np.ndarray:
        return self.column("crowd") == 0

    @cached_property
    def boxes(self) -> np.ndarray:
        return self.column("box")

    @cached_property
    def modes(self) -> np.ndarray:
        return np.broadcast_to(np.int64(BoxMode.XYWH_ABS), len(self.image))

    @cached_property
    def has_mask(self) -> np.ndarray:
        return self.column("flags") & USABLE > 0

    @cached_property
    def categories(self) -> np.ndarray:
        """N, the category ids, or the classes where the records have them; no class is -1."""
        categories = self.column("category")
        if self.records.classes is None:
            return categories
        known = np.array(list(self.records.classes), dtype=np.int64)
        result = np.empty(len(categories), dtype=np.int32)
        for part in self.blocks():
            places = np.searchsorted(known, categories[part]).clip(max=len(known) - 1)
            result[part] = np.where(known[places] == categories[part], places, -1)
        return result

    def has_class_in(self, known: range) -> np.ndarray:
        return (self.categories >= known.start) & (self.categories < known.stop)

    def used_categories(self) -> set[str]:
        return {str(i) for part in self.blocks() for i in np.unique(self.categories[part]).tolist()}

    def class_counts(self, number: int) -> np.ndarray:
        counts = np.zeros(number, dtype=np.int64)
        for part in self.blocks():
            counts += np.bincount(self.categories[part][self.counts[part]], minlength=number)
        return counts

    def usable(self, dropped: np.ndarray) -> PackedRecords:
        if not dropped.any():
            return self.records
        before = self.records.kept
        kept = np.ones(len(self._arrays["image"]), dtype=bool) if before is None else before.copy()
        kept[np.arange(len(kept))[self._rows][dropped]] = False
        return replace(self.records, kept=kept)


class _Items(Sequence[dict[str, Any]]):
    """Annotations of records in some rows of the arrays."""

    def __init__(self, records: PackedRecords, rows: slice | np.ndarray) -> None:
        self._records, self._rows = records, range(rows.start, rows.stop) if isinstance(rows, slice) else rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row = int(self._rows[index])
        return self._records.object_of(usable_annotations_of(self._records.boxes.arrays, row, row + 1)[0])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        if not isinstance(self._rows, range):
            yield from super().__iter__()
            return
        for start in self._rows[::1000]:
            some = usable_annotations_of(self._records.boxes.arrays, start, min(start + 1000, self._rows.stop))
            yield from map(self._records.object_of, some)


def make_records(boxes: CocoJson, image_root: str, problems: Problems) -> PackedRecords:
    """One dict an image, in the order of the ids, with those annotations that are of an image.

    Args:
        boxes: a file of boxes and masks.
        image_root: the folder of its images.
        problems: what is found is appended.
    """
    records = PackedRecords(boxes, image_root)
    for is_error, kind, image, ident, message in boxes.arrays.about["found"]:
        file = boxes.file if image < 0 else records.file_of(image)
        problems.add(kind, file, ident, message, is_error=is_error)
    return records


def add_segments(
    records: PackedRecords, panoptic: CocoJson, roots: tuple[str, str], problems: Problems
) -> PackedRecords:
    """The records with the segments of each image, and its PNG's name.

    Args:
        records: as `make_records` gives them.
        panoptic: the file of the segments.
        roots: the folders of the panoptic PNGs and of the semantic maps; "": there are none of these.
        problems: what is found is appended.
    """
    boxes = records.boxes
    for ident in sorted({i for i, _ in panoptic.things.items() ^ boxes.categories.items()}):
        here, there = boxes.categories.get(ident, "no category"), panoptic.things.get(ident, "no thing")
        problems.error("categories-differ", boxes.file, ident, f"{here!r} here, {there!r} in {panoptic.file}")
    idents = boxes.arrays["image_id"].tolist()
    image_of, rows = {ident: image for image, ident in enumerate(idents)}, np.full(len(records), -1, dtype=np.int64)
    for row, annotation in enumerate(panoptic.annotations):
        ident = annotation.get("image_id")
        if not isinstance(annotation.get("file_name"), str) or not is_dicts(annotation.get("segments_info")):
            message = "it needs file_name and a list segments_info"
            problems.error("malformed-annotation", panoptic.file, ident, message)
        elif not is_in(ident, image_of):
            message = "an annotation of an image that the boxes' JSON does not list"
            problems.warn("unknown-image", panoptic.file, ident, message)
        else:
            if rows[image_of[ident]] >= 0:
                message = "the image has several annotations: the last one counts"
                problems.warn("duplicate-annotation", panoptic.file, ident, message)
            rows[image_of[ident]] = row
    for image, row in enumerate(rows.tolist()):
        if row < 0:
            message = f"{panoptic.file} has none of this image"
            problems.error("no-panoptic-annotation", records.file_of(image), idents[image], message)
        else:
            annotation = annotations_of(panoptic.arrays, row, row + 1)[0]
            _check_segments(annotation, os.path.join(roots[0], annotation["file_name"]), panoptic, problems)
    return replace(records, segments=Segments(panoptic, rows, *roots))


def _check_segments(annotation: dict[str, Any], png: str, panoptic: CocoJson, problems: Problems) -> None:
    segments = annotation["segments_info"]
    counts = Counter(segment["id"] for segment in segments if type(segment.get("id")) is int)
    for segment in segments:
        ident, category = segment.get("id"), segment.get("category_id")
        if not is_in(category, panoptic.categories):
            problems.error("unknown-category", png, ident, f"category_id {category!r}, which is not listed")
        if type(ident) is not int or not 0 < ident <= _MAX_SEGMENT_ID:
            problems.error("malformed-segment", png, ident, f"a segment's id lies in 1..{_MAX_SEGMENT_ID}")
    for ident, count in counts.items():
        if count > 1:
            problems.error("duplicate-segment-id", png, ident, f"{count} segments share it")
