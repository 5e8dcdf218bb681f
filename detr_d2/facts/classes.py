"""The classes that a model learns from a dataset: how many, their names, and which of them are things."""

from collections.abc import Mapping
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from fvcore.common.registry import Registry

from .models import model_facts, value_of

DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Dataset mappers, called as ``mapper(cfg, is_train)``; ``INPUT.DATASET_MAPPER`` names one.
"""

# The value of a model's number of classes that asks for that of DATASETS.TRAIN.
FOLLOW_DATASET = -1


def reads_segments(cfg: CfgNode) -> bool:
    """Whether the mapper takes its objects from panoptic segments, whose classes are things and stuff together."""
    name = cfg.INPUT.DATASET_MAPPER
    return name in DATASET_MAPPER_REGISTRY and getattr(DATASET_MAPPER_REGISTRY.get(name), "reads_segments", False)


def class_names_of(cfg: CfgNode, dataset_name: str) -> list[str] | None:
    """Names of the classes that the model of ``cfg`` learns from a dataset, by contiguous id: things, or things and
    stuff where the mapper reads segments. None where the metadata does not say.
    """
    return class_names_in(cfg, MetadataCatalog.get(dataset_name))


def class_names_in(cfg: CfgNode, metadata: Metadata | Mapping[str, Any]) -> list[str] | None:
    """As `class_names_of`, in the metadata of a dataset, which a checkpoint may hold, too."""
    return _unified(metadata) if reads_segments(cfg) else metadata.get("thing_classes")


def class_name(metadata: Metadata, kind: str, label: int) -> str:
    """The name of a contiguous class, of ``kind`` "thing" or "stuff"; its number where the metadata has none."""
    names = metadata.get(f"{kind}_classes") or ()
    return names[label] if label < len(names) else str(label)


def unified_class_names(dataset_name: str) -> list[str] | None:
    """Names of things and stuff in one space; ``stuff_classes`` holds both where Detectron2's convention is kept."""
    return _unified(MetadataCatalog.get(dataset_name))


def _unified(metadata: Metadata | Mapping[str, Any]) -> list[str] | None:
    things, stuff = metadata.get("thing_classes"), metadata.get("stuff_classes")
    if things is None or stuff is None:
        return None
    return stuff if stuff[: len(things)] == things else [*things, *stuff]


def separate_stuff(dataset_name: str) -> list[str] | None:
    """Names of the stuff where it has a class space of its own, which semantic maps are in; None where it has not."""
    metadata = MetadataCatalog.get(dataset_name)
    things, stuff = metadata.get("thing_classes") or [], metadata.get("stuff_classes")
    return None if stuff is None or (things and stuff[: len(things)] == things) else stuff


def num_classes_of(cfg: CfgNode) -> tuple[int | None, str]:
    """The model's number of classes, and the cfg key that holds it; (None, "") for a model that does not state one.

    Where the key is `FOLLOW_DATASET`, the number is that of the classes of ``DATASETS.TRAIN[0]``.

    Raises:
        ValueError: the key asks for a dataset's classes that are not known.
    """
    key = model_facts(cfg).num_classes
    if not key:
        return None, ""
    value = value_of(cfg, key)
    if value != FOLLOW_DATASET:
        return value, key
    name = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    names = class_names_of(cfg, name) if name in DatasetCatalog else None
    if names is None:
        raise ValueError(
            f"{key} is {FOLLOW_DATASET}, which asks for the classes of DATASETS.TRAIN[0], "
            f"but {_unknown_classes(name)}: set {key}, or correct DATASETS.TRAIN."
        )
    return len(names), key


def model_class_names(cfg: CfgNode) -> list[str] | None:
    """Names of the classes that the model of ``cfg`` predicts, those of ``DATASETS.TRAIN[0]``; None where the metadata
    does not say as many as the model has.
    """
    name, key = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else "", model_facts(cfg).num_classes
    names = class_names_of(cfg, name) if name in DatasetCatalog else None
    return names if names and key and value_of(cfg, key) in (len(names), FOLLOW_DATASET) else None


def class_keys_for(cfg: CfgNode, dataset_name: str) -> dict[str, int | list[int]]:
    """The keys of the model that depend on the classes, with the values that a registered dataset asks for.

    Without those that its metadata does not say; empty for a model that states no keys.
    """
    facts, metadata = model_facts(cfg), MetadataCatalog.get(dataset_name)
    names, stuff = class_names_of(cfg, dataset_name), separate_stuff(dataset_name)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    values: dict[str, int | list[int]] = {}
    if facts.num_classes and names is not None:
        values[facts.num_classes] = len(names)
    if facts.semantic_classes and stuff is not None:
        values[facts.semantic_classes] = len(stuff)
    if facts.thing_classes and things is not None:  # the model then needs no metadata in use
        values[facts.thing_classes] = sorted(things.values())
    return values


def thing_classes_of(cfg: CfgNode) -> list[int] | None:
    """Contiguous ids of thing classes: what the model's key says, or else the metadata of ``DATASETS.TRAIN[0]``.

    The dataset defines the classes, so that is where a custom one declares them, once. The key is for models that are
    used where their dataset is not registered. None for a model that does not state one, or where neither says.
    """
    key = model_facts(cfg).thing_classes
    things: list[int] = list(value_of(cfg, key)) if key else []
    if things or not key or not cfg.DATASETS.TRAIN:
        return things or None
    ids: dict[Any, int] | None = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_dataset_id_to_contiguous_id")
    return None if ids is None else sorted(ids.values())


def _unknown_classes(dataset_name: str) -> str:
    if not dataset_name:
        return "DATASETS.TRAIN is empty"
    if dataset_name not in DatasetCatalog:
        return f"{dataset_name!r} is not registered"
    return f"the metadata of {dataset_name!r} does not name them"
