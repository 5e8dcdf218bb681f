"""A file in COCO's formats as arrays, made piece by piece, with what is wrong with it.

Legend: I usable images in the order of their ids, N annotations in the order of their images. Arrays of these:
image_id, height, width, place (I, the order in the file), first (I + 1, where each image's annotations begin); image
(N, -1 where it is not listed), id, category (`NO_CATEGORY` where it is no whole number), crowd, box (N x 4: x, y, w, h;
NaN where it is none), area (NaN where it is none), integers (bits: which of box and area are whole numbers), flags.

Whatever else an annotation has is JSON in the file's bytes, from rest_start for rest_size; of one that is odd, all of
it. So are the names of images and what else these have.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, BinaryIO

import numpy as np

from ..checks.problems import Problems
from ..checks.rules import crowd_flag, is_box, is_in
from .array_file import add_array, finish_arrays
from .values import usable_segmentation, whole

ODD, GIVEN, USABLE, CHANGED, NO_AREA = 1, 2, 4, 8, 16
NO_CATEGORY = np.iinfo(np.int64).min
_LARGE = 2.0**53  # from here on an area may not be what the file says
_MAX_COORDINATE, _MAX_PIXELS = 1e9, 2**29  # of boxes; of images: more than PIL reads
_MAX_PIECES = 5000  # arrays that a column may wait in
_TYPES = {"image": "i4", "id": "i8", "category": "i8", "crowd": "i1", "box": "f8", "area": "f8"}
_TYPES |= {"integers": "u1", "flags": "u1"}
_COLUMNS = {"id", "image_id", "category_id", "bbox", "area", "iscrowd"}
_OF_IMAGE = {"id", "file_name", "height", "width"}


class PackedImages:
    """The images of a file, of which those that are malformed are problems."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.problems = file, Problems()  # of no file's name
        self.place_of: dict[int, int] = {}
        self.names: list[str] = []
        self.sizes: list[tuple[int, int]] = []
        self.rest: list[tuple[int, int]] = []
        self.seen: set[str] = set()
        self.repeated: set[str] = set()

    def add(self, images: list[dict[str, Any]]) -> None:
        """Take over some of them."""
        for image in images:
            for key in ("id", "height", "width"):
                if key in image:
                    image[key] = whole(image[key])
            if isinstance(image.get("file_name"), str):
                image["file_name"] = image["file_name"].replace("\\", "/")
            if self._is_usable(image):
                self.place_of[image["id"]] = len(self.names)
                self.names.append(image["file_name"])
                self.sizes.append((image["height"], image["width"]))
                rest = {key: value for key, value in image.items() if key not in _OF_IMAGE}
                self.rest.append(_write(self.file, json.dumps(rest).encode() if rest else b""))

    def _is_usable(self, image: dict[str, Any]) -> bool:
        wanted = {"id": int, "file_name": str, "height": int, "width": int}
        wrong = [key for key, kind in wanted.items() if type(image.get(key)) is not kind]
        wrong += [key for key in ("height", "width") if key not in wrong and not 0 < image[key] < _MAX_PIXELS]
        if not wrong and image["height"] * image["width"] > _MAX_PIXELS:
            wrong = ["height", "width"]
        if not wrong and abs(image["id"]) >= 2**63:
            wrong = ["id"]
        if wrong:
            values = ", ".join(f"{key} {image.get(key)!r}" for key in wrong)
            self.problems.error("malformed-image", "", image.get("id"), f"an image with {values}")
            return False
        ident, name = image["id"], image["file_name"]
        if ident in self.place_of:
            message = f"images {self.names[self.place_of[ident]]} and {name} share it"
            self.problems.error("duplicate-image-id", "", ident, message)
            return False
        if name in self.seen and name not in self.repeated:
            self.repeated.add(name)
            self.problems.warn("duplicate-image-file", "", ident, f"{name} is listed more than once")
        self.seen.add(name)
        return True

    def arrays(self) -> dict[str, np.ndarray]:
        """In the order of the ids."""
        order = np.argsort(np.fromiter(self.place_of, np.int64, len(self.place_of)), kind="stable").astype(np.int32)
        sizes = np.array(self.sizes, dtype=np.int32).reshape(-1, 2)[order]
        names = [_write(self.file, name.encode("utf-8", "surrogatepass")) for name in self.names]
        parts = {"name": names, "image_rest": self.rest if any(size for _, size in self.rest) else []}
        arrays = {"image_id": np.fromiter(self.place_of, np.int64, len(order))[order], "place": order}
        for name, places in parts.items():
            places = np.array(places, dtype=np.int64).reshape(-1, 2)
            places = places[order] if len(places) else places
            arrays |= {f"{name}_start": places[:, 0], f"{name}_size": places[:, 1].astype(np.int32)}
        return arrays | {"height": sizes[:, 0], "width": sizes[:, 1]}


class PackedAnnotations:
    """The annotations of a file.

    Args:
        images: of the file; None: the annotations are panoptic, and kept as they are.
    """

    def __init__(self, file: BinaryIO, images: PackedImages | None) -> None:
        self.file, self.images = file, images
        self.problems = Problems()  # of crowds
        # Position, rank among those of one annotation, place of its image, and what `Problems.add` takes.
        self.found: list[tuple[int, int, int, str, Any, str, bool]] = []
        self.count = 0
        self._pieces: dict[str, list[np.ndarray]] = {name: [] for name in (*_TYPES, "rest_start", "rest_size")}
        self._odd: dict[int, tuple[Any, Any]] = {}  # position -> id and category as they are

    def add(self, annotations: list[dict[str, Any]]) -> None:
        """Take over some of them."""
        if not annotations:
            return
        columns = self._plain(annotations)
        if columns is None and len(annotations) > 1:
            half = len(annotations) // 2
            self.add(annotations[:half])
            self.add(annotations[half:])
            return
        if columns is None:
            self._normalize(annotations[0])
            columns = self._plain(annotations) or self._as_it_is(annotations[0])
        flags, rest = columns["flags"], np.zeros((len(annotations), 2), dtype=np.int64)
        for i, annotation in enumerate(annotations):
            if flags[i] & ODD or not annotation.keys() <= _COLUMNS:
                flags[i] |= self._check(annotation, int(columns["image"][i]), self.count + i)
                kept = annotation
                if not flags[i] & ODD:
                    kept = {key: value for key, value in annotation.items() if key not in _COLUMNS}
                else:
                    self._odd[self.count + i] = annotation.get("id"), annotation.get("category_id")
                rest[i] = _write(self.file, json.dumps(kept).encode())
        for name, values in {**columns, "rest_start": rest[:, 0], "rest_size": rest[:, 1].astype(np.int32)}.items():
            pieces = self._pieces[name]
            pieces.append(values)
            if len(pieces) > _MAX_PIECES:
                pieces[:] = [np.concatenate(pieces)]
        self.count += len(annotations)

    def _plain(self, annotations: list[dict[str, Any]]) -> dict[str, np.ndarray] | None:
        """Columns of annotations that have what all should have, as numbers, and are of listed images; else None."""
        if self.images is None:
            return None
        try:
            ids, images, categories, boxes = (
                [annotation[key] for annotation in annotations] for key in ("id", "image_id", "category_id", "bbox")
            )
            areas = [annotation.get("area") for annotation in annotations]
            no_area = np.array([area is None for area in areas], dtype=bool)
            if no_area.any():
                if any("area" in annotations[i] for i in np.flatnonzero(no_area)):  # null
                    return None
                areas = [np.nan if area is None else area for area in areas]
            crowds = [annotation.get("iscrowd", 0) for annotation in annotations]
            values = list(chain.from_iterable(boxes))
            whole_numbers = chain(ids, images, categories, crowds)
            if {*map(type, whole_numbers)} - {int} or {*map(type, boxes)} - {list} or {*map(len, boxes)} - {4}:
                return None
            kinds = {*map(type, values), *map(type, areas)}
            if kinds - {int, float} or {*crowds} - {0, 1}:
                return None
            known = self.images.place_of
            columns = {
                "image": np.array([known.get(image, -1) for image in images], dtype=np.int32),
                "id": np.array(ids, dtype=np.int64),
                "category": np.array(categories, dtype=np.int64),
                "crowd": np.array(crowds, dtype=np.int8),
                "box": np.array(values, dtype=np.float64).reshape(-1, 4),
                "area": np.array(areas, dtype=np.float64),
            }
        except (KeyError, TypeError, OverflowError):
            return None
        if not (np.abs(columns["box"]) < _MAX_COORDINATE).all() or (np.abs(columns["area"]) >= _LARGE).any():
            return None
        if (columns["image"] < 0).any() or (columns["category"] == NO_CATEGORY).any():
            return None
        integers = np.zeros(len(ids), dtype=np.uint8)
        if int in kinds:
            is_whole = np.array([type(value) is int for value in values], dtype=np.uint8).reshape(-1, 4)
            integers = is_whole @ np.array([1, 2, 4, 8], dtype=np.uint8)
            integers |= np.array([type(area) is int for area in areas], dtype=np.uint8) * 16
        return {**columns, "integers": integers, "flags": no_area.astype(np.uint8) * NO_AREA}

    def _as_it_is(self, annotation: dict[str, Any]) -> dict[str, np.ndarray]:
        """What can be said in columns of an annotation that is kept as it is."""
        ident, category, box = annotation.get("id"), annotation.get("category_id"), annotation.get("bbox")
        image, area = annotation.get("image_id"), annotation.get("area")
        known = self.images.place_of if self.images else {}
        is_area = isinstance(area, (int, float)) and not abs(area) > _LARGE**2
        values = {
            "image": known.get(image, -1) if is_in(image, known) else -1,
            "id": ident if _is_number(ident) else 0,
            "category": category if _is_number(category) else NO_CATEGORY,
            "crowd": annotation["iscrowd"],
            "box": box if is_box(box) else [np.nan] * 4,
            "area": area if is_area else np.nan,
            "integers": 0,
            "flags": ODD,
        }
        return {name: np.array([value], dtype=_TYPES[name]) for name, value in values.items()}

    def _normalize(self, annotation: dict[str, Any]) -> None:
        for key in ("image_id", "category_id"):
            if key in annotation:
                annotation[key] = whole(annotation[key])
        crowd = crowd_flag(annotation.get("iscrowd"))
        if crowd is None:
            message = f"iscrowd is {annotation['iscrowd']!r}, neither 0 nor 1: it is a crowd"
            self.problems.warn("malformed-annotation", "", annotation.get("id"), message)
        annotation["iscrowd"] = 0 if crowd == 0 else 1

    def _check(self, annotation: dict[str, Any], image: int, position: int) -> int:
        """Flags of an annotation with more than all have, or less; what is wrong with it is found."""
        ident, segmentation = annotation.get("id"), annotation.get("segmentation")
        flags = GIVEN if segmentation else 0
        if self.images is None:
            return flags
        if "image_id" not in annotation or isinstance(annotation["image_id"], (list, dict)):
            message = "it needs the id of an image as image_id"
            self.found.append((position, 0, -1, "malformed-annotation", ident, message, True))
        elif image < 0:
            message = f"an annotation of image {annotation['image_id']!r}, which is not listed: it is left out"
            self.found.append((position, 0, -1, "unknown-image", ident, message, False))
        if image < 0:
            return flags
        if annotation.get("ignore", 0):
            message = "'ignore' is set, which cannot be learnt from; remove it"
            self.found.append((position, 2, image, "malformed-annotation", ident, message, True))
        if segmentation:
            usable, fault = usable_segmentation(segmentation, *self.images.sizes[image])
            if fault:
                self.found.append((position, 3, image, "bad-segmentation", ident, f"{fault}: left out", False))
            is_changed = bool(fault) or (usable is not segmentation and isinstance(segmentation, dict))
            flags |= (usable is not None) * USABLE | is_changed * CHANGED
        return flags

    def columns(self) -> dict[str, np.ndarray]:
        """In the order of the file; they are forgotten here."""
        empty = np.zeros(0, np.int64)
        pieces, self._pieces = self._pieces, {}
        result = {}
        for name in list(pieces):
            values = pieces.pop(name)
            result[name] = np.concatenate(values) if values else empty.astype(_TYPES.get(name, "i8"))
        result["box"] = result["box"].reshape(-1, 4)
        return result

    def id_problems(self, columns: Mapping[str, np.ndarray]) -> Iterable[tuple[str, Any, str]]:
        """Annotations without an id, then ids of several: kind, id and message of each."""
        others: Counter[Any] = Counter()
        first: dict[Any, int] = {}
        has_id = np.ones(self.count, dtype=bool)
        for position, (ident, _) in self._odd.items():
            has_id[position] = _is_number(ident)
            if not has_id[position] and type(ident) in (int, str):
                others[ident] += 1
                first.setdefault(ident, position)
            elif not has_id[position]:
                yield "malformed-annotation", ident, f"annotations[{position}] needs a number or text as id"
        ids = columns["id"] if has_id.all() else columns["id"][has_id]
        counts = {ident: count for ident, count in others.items() if count > 1}
        if len(ids) > 1 and not (ids[1:] > ids[:-1]).all():
            ordered = np.sort(ids)
            repeated, times = np.unique(ordered[1:][ordered[1:] == ordered[:-1]], return_counts=True)
            counts |= dict(zip(repeated.tolist(), (times + 1).tolist(), strict=True))
            for position in np.flatnonzero(has_id & np.isin(columns["id"], repeated)).tolist():
                first.setdefault(int(columns["id"][position]), position)
        for ident in sorted(counts, key=first.__getitem__):
            yield "duplicate-annotation-id", ident, f"{counts[ident]} annotations share it"

    def find_unknown_categories(self, columns: Mapping[str, np.ndarray], categories: Iterable[int]) -> None:
        """Add those of objects of listed images."""
        known = np.array([c for c in categories if _is_number(c)], dtype=np.int64)
        for position in np.flatnonzero(~np.isin(columns["category"], known) & (columns["image"] >= 0)).tolist():
            own = int(columns["id"][position]), int(columns["category"][position])
            ident, category = self._odd.get(position, own)
            message = f"category_id {category!r}, which is not listed"
            image = int(columns["image"][position])
            self.found.append((position, 1, image, "unknown-category", ident, message, True))


def write_packed(
    file: BinaryIO,
    images: PackedImages,
    annotations: PackedAnnotations,
    about: dict[str, Any],
    categories: Iterable[int],
) -> None:
    """Write what was packed, and ``about`` with what was found, to the end of ``file``."""
    columns, places = annotations.columns(), {}
    problems = []
    if annotations.images is not None:
        annotations.find_unknown_categories(columns, categories)
        json_problems = ((True, kind, -1, ident, message) for kind, ident, message in annotations.id_problems(columns))
        problems += json_problems
    arrays = images.arrays()
    row_of = np.empty(len(arrays["place"]) + 1, dtype=np.int32)  # of a place in the file; the last: of no image
    row_of[arrays["place"]], row_of[-1] = np.arange(len(arrays["place"])), -1
    for _, _, image, kind, ident, message, is_error in sorted(annotations.found, key=lambda found: found[:2]):
        problems.append((is_error, kind, int(row_of[image]), ident, message))
    columns["image"] = row_of[columns["image"]]
    arrays["first"] = np.searchsorted(
        np.sort(columns["image"]), np.arange(len(arrays["place"]) + 1, dtype=np.int32)
    ).astype(np.int64)
    order = None
    if (columns["image"][1:] < columns["image"][:-1]).any():
        order = np.argsort(columns["image"], kind="stable")
    if not columns["rest_size"].any():
        del columns["rest_start"], columns["rest_size"]
    for name in list(columns):
        values = columns.pop(name)
        add_array(file, places, name, values if order is None else values[order])
    for name, values in arrays.items():
        add_array(file, places, name, values)
    finish_arrays(file, places, {**about, "found": problems})


def _write(file: BinaryIO, content: bytes) -> tuple[int, int]:
    """Where it is in the file, and its size."""
    start = file.tell()
    file.write(content)
    return start, len(content)


def _is_number(value: Any) -> bool:
    """Whether it is a whole number that an array holds."""
    return type(value) is int and -(2**63) < value < 2**63
