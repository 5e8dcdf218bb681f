"""The classes that a model was trained on, as a checkpoint of our trainer says or else the datasets of its config."""

import os
from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager

from .reading import read_extras

# What a checkpoint's "dataset_metadata" may hold: Detectron2's names of a dataset's metadata.
DATASET_METADATA_KEYS = (
    "thing_classes",
    "stuff_classes",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)


def read_dataset_metadata(path: str) -> dict[str, Any]:
    """Those of `DATASET_METADATA_KEYS` that a checkpoint holds; {} for files of other programs, or none at all.

    It maps the file, so that the weights are not read. What is wrong with a file is for the checkpointer to say.
    """
    try:
        local = PathManager.get_local_path(os.fspath(path).split("?")[0])
    except Exception:  # path handlers raise all sorts
        return {}
    metadata = read_extras(local).get("dataset_metadata")
    if not isinstance(metadata, dict):
        return {}
    return {key: metadata[key] for key in DATASET_METADATA_KEYS if metadata.get(key) is not None}


def class_names_of(metadata: Mapping[str, Any], num_classes: int) -> list[str] | None:
    """The names of a model's classes from a dataset's metadata; None where it has not as many.

    Panoptic datasets name things and stuff together in ``stuff_classes``, as Detectron2 does.
    """
    lists = (metadata.get("thing_classes"), metadata.get("stuff_classes"))
    return next((list(names) for names in lists if names is not None and len(names) == num_classes), None)


def class_names_of_weights(cfg: CfgNode, num_classes: int) -> list[str] | None:
    """The names of the classes that the checkpoint in ``MODEL.WEIGHTS`` holds, or else those of the first of
    ``DATASETS.TEST`` and ``TRAIN`` that has as many; None where nothing says.
    """
    sources = [read_dataset_metadata(cfg.MODEL.WEIGHTS)]
    sources += [MetadataCatalog.get(name).as_dict() for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN)]
    return next((names for source in sources if (names := class_names_of(source, num_classes))), None)
