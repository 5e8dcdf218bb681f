"""Results as COCO's JSON files, written while they come, so that a long video does not fill the memory."""

import contextlib
import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from detectron2.data import Metadata
from detectron2.evaluation.coco_evaluation import instances_to_coco_json

from ..command_line import check_output
from ..files import whole_file, whole_files
from ..structures import encode_ids
from ..visualization.predictions import above
from .inputs import Frame, Source
from .outputs import Sink


class _JsonList:
    """A list in a JSON file that grows: all that the file holds, or, where there is a ``key``, what that is in an
    object with other ``fields``.
    """

    def __init__(self, file: BinaryIO, key: str = "", **fields: Any) -> None:
        self.file, self.count, self.tail = file, 0, "]}" if key else "]"
        file.write((f'{json.dumps(fields)[:-1]}, "{key}": [' if key else "[").encode())

    def add(self, item: Any) -> None:
        self.file.write((",\n" if self.count else "\n").encode() + json.dumps(item).encode())
        self.count += 1

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """After an error within it, what was added is taken back."""
        position, count = self.file.tell(), self.count
        try:
            yield
        except BaseException:
            self.count = count
            self.file.seek(position)
            self.file.truncate()
            raise

    def finish(self) -> None:
        self.file.write(f"\n{self.tail}".encode())


class JsonSink(Sink):
    """A list of results in ``path``, and beside it the images that they are of, in ``<path>_images.json``.

    The second is a COCO annotation file without annotations: ``COCO(images).loadRes(results)`` reads both. Classes have
    the dataset's category ids, or, where it is not known, the model's.

    Args:
        path: of the results, ``.json``.
    """

    key = ""  # what the results are in their file; "": all of it
    has_files = False  # whether `items` writes files into the folder `partial`, and adds to `undo` how they vanish

    def __init__(self, path: Path) -> None:
        self.path = path
        self.images_path = path.with_name(f"{path.stem}_images.json")
        check_output(path, suffixes=(".json",))
        check_output(self.images_path)

    @contextlib.contextmanager
    def open(self, metadata: Metadata) -> Iterator[None]:
        self.metadata, known = metadata, categories(metadata)
        with (
            whole_file(self.path) as partial,
            whole_file(self.images_path) as images_partial,
            partial.open("wb+") as results,
            images_partial.open("wb+") as images,
        ):
            self.results = _JsonList(results, self.key, **({"categories": known} if self.key else {}))
            self.images = _JsonList(images, "images", info={}, categories=known, annotations=[])
            yield
            self.results.finish()
            self.images.finish()

    @contextlib.contextmanager
    def source(self, source: Source) -> Iterator[None]:
        with self.results.kept(), self.images.kept():
            yield

    def add(self, frame: Frame, output: Mapping[str, Any], picture: np.ndarray | None) -> None:
        self.write(frame.description(), self.items(frame, output))

    def write(self, description: Mapping[str, Any], items: Iterable[Mapping[str, Any]]) -> None:
        """Put an image, and the entries of `items`, into the files. They get its id, whatever theirs was."""
        self.images.add(description)
        for item in items:
            self.results.add({**item, "image_id": description["id"]})

    @abstractmethod
    def items(self, frame: Frame, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The entries of one image."""


class CocoJson(JsonSink):
    """COCO's format of detection results: boxes, scores and, of models that predict them, masks as RLE.

    Args:
        path: see above.
        threshold: the least score.
    """

    needs = ("instances",)

    def __init__(self, path: Path, threshold: float) -> None:
        super().__init__(path)
        self.threshold = threshold

    def items(self, frame: Frame, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        ids = _dataset_ids(self.metadata, "thing")
        instances = above(output["instances"], self.threshold)
        entries = instances_to_coco_json(instances, frame.image_id)
        return [entry | {"category_id": _of(ids, entry["category_id"])} for entry in entries]


class PanopticJson(JsonSink):
    """COCO's format of panoptic results: segments in ``path``, their maps as PNG files in a folder of its name."""

    needs = ("panoptic_seg",)
    key = "annotations"
    has_files = True

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.folder = path.with_suffix("")
        if self.folder.exists() and not (self.folder.is_dir() and not any(self.folder.iterdir())):
            raise FileExistsError(f"{self.folder}, the folder for the PNG files, is there already: remove it.")

    @contextlib.contextmanager
    def open(self, metadata: Metadata) -> Iterator[None]:
        with whole_files(self.folder) as self.partial, super().open(metadata):
            yield

    @contextlib.contextmanager
    def source(self, source: Source) -> Iterator[None]:
        with super().source(source), contextlib.ExitStack() as self.undo:
            yield
            self.undo.pop_all()

    def items(self, frame: Frame, output: Mapping[str, Any]) -> list[dict[str, Any]]:
        ids, segments = output["panoptic_seg"]
        path = self.partial / f"{frame.name}.png"
        with path.open("xb") as file:
            self.undo.callback(path.unlink)
            file.write(encode_ids(ids.numpy()))
        annotation = {"image_id": frame.image_id, "file_name": path.name}
        return [annotation | {"segments_info": [self._segment(segment) for segment in segments]}]

    def _segment(self, segment: Mapping[str, Any]) -> dict[str, Any]:
        kept = {key: segment[key] for key in ("id", "area", "score") if key in segment}
        ids = _dataset_ids(self.metadata, "thing" if segment["isthing"] else "stuff")
        return kept | {"category_id": _of(ids, segment["category_id"])}


def categories(metadata: Metadata) -> list[dict[str, Any]]:
    """The classes as COCO's files list them: things, then stuff."""
    found: dict[int, dict[str, Any]] = {}
    for kind in ("thing", "stuff"):
        ids = _dataset_ids(metadata, kind)
        for index, name in enumerate(metadata.get(f"{kind}_classes") or ()):
            if ids is None or index in ids:  # stuff_classes may hold the things, too
                category_id = _of(ids, index)
                found.setdefault(category_id, {"id": category_id, "name": name, "isthing": int(kind == "thing")})
    return list(found.values())


def _dataset_ids(metadata: Metadata, kind: str) -> dict[int, int] | None:
    """Contiguous id -> the dataset's; None where it does not say."""
    to_contiguous = metadata.get(f"{kind}_dataset_id_to_contiguous_id")
    return None if to_contiguous is None else {contiguous: own for own, contiguous in to_contiguous.items()}


def _of(ids: Mapping[int, int] | None, index: int) -> int:
    """The dataset's id of a class.

    Raises:
        ValueError: the dataset has none.
    """
    if ids is None:
        return index
    if index not in ids:
        raise ValueError(
            f"The model predicts class {index}, but its dataset has {len(ids)} classes: the weights, or the number of "
            "classes in the config, are another dataset's."
        )
    return ids[index]
