"""Images of one or several datasets in Detectron2's format, as loaders use them."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np
from detectron2.data import DatasetFromList

from .checks.rules import Objects, Records


class Joined(Sequence[dict[str, Any]]):
    """Several sequences, one after another, which are not copied."""

    def __init__(self, parts: Sequence[Sequence[dict[str, Any]]]) -> None:
        self.parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        part = bisect_right(self._ends, index)
        return self.parts[part][index - self._ends[part] + len(self.parts[part])]


class _OnlyClasses(Sequence[dict[str, Any]]):
    """The classes of records, which is what samplers ask of them."""

    def __init__(self, records: Records) -> None:
        objects = records.objects()
        self._classes = objects.categories
        self._first = np.searchsorted(objects.image, np.arange(len(records) + 1))

    def __len__(self) -> int:
        return len(self._first) - 1

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        classes = self._classes[self._first[index] : self._first[index + 1]].tolist()
        return {"annotations": [{"category_id": label} for label in classes]}


def joined(parts: Sequence[Sequence[dict[str, Any]]]) -> Sequence[dict[str, Any]]:
    """All images of several datasets."""
    if len(parts) == 1:
        return parts[0]
    return Joined(parts) if any(isinstance(part, Records) for part in parts) else [d for part in parts for d in part]


def parts_of(images: Sequence[dict[str, Any]]) -> Sequence[Sequence[dict[str, Any]]]:
    """What `joined` joined."""
    return images.parts if isinstance(images, Joined) else [images]


def only_classes(images: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The same images with no more than samplers ask of them, where that is faster."""
    return joined([_OnlyClasses(part) if isinstance(part, Records) else part for part in parts_of(images)])


def shared(images: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """The images so that worker processes share the memory that holds them."""
    return images if isinstance(images, (Records, Joined)) else DatasetFromList(images, copy=False)


def sizes_of(images: Sequence[dict[str, Any]]) -> np.ndarray:
    """Width and height of each image; -1 where it does not say them."""

    def sizes(part: Sequence[dict[str, Any]]) -> np.ndarray:
        if isinstance(part, Records):
            return part.sizes()
        return np.array([(d.get("width", -1), d.get("height", -1)) for d in part], dtype=np.int64).reshape(-1, 2)

    return np.concatenate([sizes(part) for part in parts_of(images)])


def class_counts(images: Sequence[dict[str, Any]], number: int) -> np.ndarray:
    """How many objects but crowds there are of each class, of ``number``."""
    return sum(Objects.of(part, "annotations").class_counts(number) for part in parts_of(images))
