"""The classes that a checkpoint of our trainer says it was trained on."""

import argparse
import os
from typing import Any

import torch
from detectron2.utils.file_io import PathManager

# What a checkpoint's "dataset_metadata" may hold: Detectron2's names of a data set's metadata.
DATASET_METADATA_KEYS = (
    "thing_classes",
    "stuff_classes",
    "thing_dataset_id_to_contiguous_id",
    "stuff_dataset_id_to_contiguous_id",
)


def read_dataset_metadata(path: str) -> dict[str, Any]:
    """Those of `DATASET_METADATA_KEYS` that a checkpoint holds; {} for files of other programs, or none at all.

    It maps the file, so that the weights are not read. What is wrong with a file is for the checkpointer to tell.
    """
    try:
        local = PathManager.get_local_path(os.fspath(path).split("?")[0])
        with torch.serialization.safe_globals([argparse.Namespace]):
            checkpoint = torch.load(local, map_location="cpu", weights_only=True, mmap=True)
    except Exception:  # torch raises five types for files that are none of ours, path handlers others
        return {}
    metadata = checkpoint.get("dataset_metadata") if isinstance(checkpoint, dict) else None
    if not isinstance(metadata, dict):
        return {}
    return {key: metadata[key] for key in DATASET_METADATA_KEYS if metadata.get(key) is not None}
