"""Datasets that a config names under ``DATASETS.CUSTOM``, in COCO's formats for boxes, masks and panoptic segments.

Classes are those of the files, contiguous in the order of their ids, which may have gaps, start at 0 or be of any size.

With ``panoptic_json``, things and stuff share one class space, things first, as `detr_d2.data.datasets.shapes` says;
with ``sem_seg_root`` beside it, stuff has classes 1.. of its own after 0 = "things", which Panoptic FPN learns.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ..checks.problems import Problems
from .coco_json import CocoJson, read_coco_json
from .panoptic_stuff import IGNORE_LABEL
from .records import PackedRecords, add_segments, make_records

_NEEDED = ("name", "json_file", "image_root")
_OPTIONAL = ("panoptic_json", "panoptic_root", "sem_seg_root")

logger = logging.getLogger(__name__)


class Classes(NamedTuple):
    """What the files of a dataset say of its classes: category id -> name, in the order of the ids."""

    things: dict[int, str]
    stuff: dict[int, str]


class Content(NamedTuple):
    """What the files of a dataset hold: Detectron2's dicts with the files' category ids, and what is wrong."""

    boxes: CocoJson
    panoptic: CocoJson | None
    records: PackedRecords | None
    problems: Problems


class CustomDataset(NamedTuple):
    """One entry of ``DATASETS.CUSTOM``.

    Attributes:
        name: for ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file: boxes, and masks where it has any, in COCO's format.
        image_root: the folder that the images' ``file_name`` start from.
        panoptic_json, panoptic_root: annotations in COCO's panoptic format and the folder of their PNGs; "": none.
        sem_seg_root: folder of semantic maps of the stuff (`detr_d2.data.datasets.panoptic_stuff`); "": none.
    """

    name: str
    json_file: str
    image_root: str
    panoptic_json: str = ""
    panoptic_root: str = ""
    sem_seg_root: str = ""

    @classmethod
    def of(cls, entry: Any) -> "CustomDataset":
        """From what the config holds; relative paths start from the working directory.

        Raises:
            ValueError: not a dict, or keys are missing, unknown or no text.
        """
        if not isinstance(entry, Mapping):
            raise ValueError(f"DATASETS.CUSTOM is a list of dicts with {', '.join(_NEEDED)}, but holds {entry!r}.")
        missing = [key for key in _NEEDED if not entry.get(key)]
        unknown = [str(key) for key in entry if key not in (*_NEEDED, *_OPTIONAL)]
        if missing or unknown:
            faults = [f"lacks {', '.join(missing)}"] * bool(missing) + [f"has {', '.join(unknown)}"] * bool(unknown)
            raise ValueError(
                f"DATASETS.CUSTOM: {entry.get('name') or dict(entry)!r} {' and '.join(faults)}; an entry has "
                f"{', '.join(_NEEDED)}, and may have {', '.join(_OPTIONAL)}."
            )
        for key, value in entry.items():
            if not isinstance(value, (str, type(None))):
                raise ValueError(f"DATASETS.CUSTOM: {key} of {entry['name']!r} must be text, not {value!r}.")
        if bool(entry.get("panoptic_json")) != bool(entry.get("panoptic_root")):
            raise ValueError(f"DATASETS.CUSTOM: {entry['name']!r} needs panoptic_json and panoptic_root, or neither.")
        if entry.get("sem_seg_root") and not entry.get("panoptic_json"):
            raise ValueError(f"DATASETS.CUSTOM: sem_seg_root of {entry['name']!r} needs panoptic_json beside it.")
        return cls(entry["name"], *(_absolute(entry.get(key) or "") for key in cls._fields[1:]))

    def as_entry(self) -> dict[str, str]:
        """As the config holds it, without what it has not."""
        return {key: value for key, value in self._asdict().items() if value}

    def classes(self) -> Classes:
        """Read from the files, once for each version of them.

        Raises:
            FileNotFoundError, ValueError: a file is missing, or does not tell its classes.
        """
        versions = (os.path.exists(file) and os.stat(file) for file in (self.json_file, self.panoptic_json))
        return _classes(self, *(version and (version.st_mtime_ns, version.st_size) for version in versions))

    def read(self) -> Content:
        """What the files hold, however much of them is wrong.

        Raises:
            FileNotFoundError: a JSON file is missing.
        """
        boxes = read_coco_json(self.json_file)
        panoptic = read_coco_json(self.panoptic_json, is_panoptic=True) if self.panoptic_json else None
        problems = Problems([*boxes.problems, *(panoptic.problems if panoptic else ())])
        if not (boxes.is_readable and (panoptic is None or panoptic.is_readable)):
            return Content(boxes, panoptic, None, problems)
        records = make_records(boxes, self.image_root, problems)
        if panoptic:
            records = add_segments(records, panoptic, (self.panoptic_root, self.sem_seg_root), problems)
        return Content(boxes, panoptic, records, problems)

    def load(self) -> PackedRecords:
        """Detectron2's dicts with contiguous classes, one an image.

        Raises:
            FileNotFoundError: a JSON file is missing.
            BadDatasetError: what is wrong with the files as a whole, or with ids, categories and segments.
        """
        boxes, panoptic, records, problems = self.read()
        problems.raise_first(self.name)
        problems.log_warnings(self.name)
        segments = records.segments
        if segments and self.sem_seg_root:
            segments = replace(segments, png_root="", classes={})
        elif segments:
            segments = replace(segments, classes=_contiguous({**panoptic.things, **panoptic.stuff}))
        return replace(records, classes=_contiguous(boxes.categories), segments=segments)

    def metadata(self) -> dict[str, Any]:
        """Detectron2's metadata, without the classes where the files cannot be read."""
        try:
            return self.metadata_of(self.classes())
        except (OSError, ValueError) as error:  # a trained model may be used where its data is not
            logger.warning(f"The classes of the dataset {self.name!r} are unknown: {error}")
            return self.metadata_of(None)

    def metadata_of(self, classes: Classes | None) -> dict[str, Any]:
        """Detectron2's metadata of a dataset with these classes; None: they are unknown."""
        values: dict[str, Any] = {"json_file": self.json_file, "image_root": self.image_root, "evaluator_type": "coco"}
        if self.panoptic_json:
            values |= {"panoptic_json": self.panoptic_json, "panoptic_root": self.panoptic_root}
            values |= {"evaluator_type": "coco_panoptic_seg", "ignore_label": IGNORE_LABEL, "label_divisor": 1000}
        if self.sem_seg_root:
            values["sem_seg_root"] = self.sem_seg_root
        if classes is None:
            return values
        things, stuff = classes.things, classes.stuff
        values |= {"thing_classes": list(things.values()), "thing_dataset_id_to_contiguous_id": _contiguous(things)}
        if self.sem_seg_root:
            unused = 0 if 0 not in {*things, *stuff} else min(0, *things, *stuff) - 1
            values["stuff_classes"] = ["things", *stuff.values()]
            values["stuff_dataset_id_to_contiguous_id"] = _contiguous({unused: "things", **stuff})
        elif self.panoptic_json:
            # Detectron2 indexes stuff_classes with a stuff segment's class: in one space, the things come first.
            values["stuff_classes"] = [*things.values(), *stuff.values()]
            both = _contiguous({**things, **stuff})
            values["stuff_dataset_id_to_contiguous_id"] = {i: both[i] for i in stuff}
        return values


@lru_cache
def _classes(dataset: CustomDataset, *versions: object) -> Classes:
    boxes = read_coco_json(dataset.json_file).require_classes()
    if not dataset.panoptic_json:
        return Classes(boxes.things, {})
    panoptic = read_coco_json(dataset.panoptic_json, is_panoptic=True).require_classes()
    if boxes.things != panoptic.things:
        differ = sorted({i for i, _ in boxes.things.items() ^ panoptic.things.items()})
        raise ValueError(
            f"{dataset.json_file} and the things of {dataset.panoptic_json} must be the same categories, but ids "
            f"{', '.join(map(str, differ[:5]))} are in one of them only, or have two names."
        )
    return Classes(panoptic.things, panoptic.stuff)


def custom_datasets(cfg: CfgNode) -> list[CustomDataset]:
    """The entries of ``DATASETS.CUSTOM``.

    Raises:
        ValueError: an entry is malformed, or two share a name.
    """
    datasets = [CustomDataset.of(entry) for entry in cfg.DATASETS.CUSTOM]
    repeated = [name for name, count in Counter(dataset.name for dataset in datasets).items() if count > 1]
    if repeated:
        raise ValueError(f"DATASETS.CUSTOM names {', '.join(map(repr, repeated))} more than once.")
    return datasets


def register_datasets(cfg: CfgNode, required: Iterable[str] = ()) -> None:
    """Register every dataset of ``DATASETS.CUSTOM``, in each process that uses it; a second time changes nothing.

    Args:
        cfg: as `detr_d2.engine.load_config` gives it; relative paths start from the working directory.
        required: names of datasets whose classes must be readable now. Others may be absent until they are loaded.

    Raises:
        ValueError: an entry is malformed, its name is another dataset's, or a required one does not tell its classes.
        FileNotFoundError: a file of a required one is missing.
    """
    required = set(required)
    for dataset in custom_datasets(cfg):
        _register(dataset)
        if dataset.name in required:
            try:
                dataset.classes()
            except (OSError, ValueError) as error:
                raise type(error)(f"DATASETS.CUSTOM, {dataset.name!r}: {error}") from error


def _register(dataset: CustomDataset) -> None:
    name = dataset.name
    if name not in DatasetCatalog:
        DatasetCatalog.register(name, dataset.load)
    registered = getattr(DatasetCatalog[name], "__self__", None)
    if not isinstance(registered, CustomDataset):
        raise ValueError(f"DATASETS.CUSTOM: {name!r} is the name of another dataset already; take another.")
    if registered != dataset:
        raise ValueError(
            f"DATASETS.CUSTOM: {name!r} is registered with other files already ({registered.as_entry()}, now "
            f"{dataset.as_entry()}): give each dataset a name of its own."
        )
    metadata = {"name": name, **dataset.metadata()}
    if MetadataCatalog.get(name).as_dict() != metadata:
        MetadataCatalog.remove(name)  # of a former version of the files: its attributes cannot be changed
        MetadataCatalog.get(name).set(**metadata)


def _contiguous(categories: Iterable[int]) -> dict[int, int]:
    """Category id -> class, in the order given."""
    return {category_id: i for i, category_id in enumerate(categories)}


def _absolute(path: str) -> str:
    return path if not path or "://" in path else os.path.abspath(os.path.expanduser(path))
