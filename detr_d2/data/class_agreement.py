"""Whether the classes of data sets agree with each other, as far as their metadata tells them."""

from collections.abc import Iterable
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog, print_instances_class_histogram
from detectron2.data.detection_utils import check_metadata_consistency

from ..facts import model_facts, separate_stuff, unified_class_names


def check_semantic_maps(cfg: CfgNode, dataset_dicts: list[dict[str, Any]], name: str, is_train: bool) -> None:
    """What a model that classifies every pixel learns from must be there, in as many classes as it has.

    Raises:
        ValueError: an image has no map, or the numbers of classes differ.
    """
    if not is_train or not model_facts(cfg).semantic_classes:
        return
    if not all("sem_seg_file_name" in d for d in dataset_dicts):
        raise ValueError(
            f"data set {name!r} gives no semantic maps ('sem_seg_file_name'), which a {cfg.MODEL.META_ARCHITECTURE} "
            "learns from: use a *_separated data set, or sem_seg_root in DATASETS.CUSTOM"
        )
    stuff, num_classes = separate_stuff(name), cfg.MODEL.SEM_SEG_HEAD.NUM_CLASSES
    if stuff is not None and len(stuff) != num_classes:
        raise ValueError(
            f"data set {name!r} has {len(stuff)} classes of semantic maps ({', '.join(stuff[:5])}, ...), but "
            f"MODEL.SEM_SEG_HEAD.NUM_CLASSES is {num_classes}: set it to {len(stuff)}"
        )


def check_same_classes(names: list[str], dataset_dicts: list[dict[str, Any]]) -> None:
    """Data sets that are used together must have the same classes; logs how often each occurs, as Detectron2 does."""
    class_names = MetadataCatalog.get(names[0]).get("thing_classes")
    if class_names is None or not all("annotations" in d for d in dataset_dicts):
        return
    check_metadata_consistency("thing_classes", names)
    print_instances_class_histogram(dataset_dicts, class_names)


def check_same_unified_classes(names: Iterable[str]) -> None:
    """Panoptic data sets that a model is trained or evaluated on must have the same things and stuff in one order."""
    known = {name: classes for name in names if (classes := _unified_classes(name)) is not None}
    for name, classes in list(known.items())[1:]:
        first, expected = next(iter(known.items()))
        if classes != expected:
            place = next((i for i, pair in enumerate(zip(expected, classes, strict=False)) if pair[0] != pair[1]), None)
            how = (
                f"they have {len(expected)} and {len(classes)} classes"
                if place is None
                else f"class {place} is {_described(expected[place])} in the one and {_described(classes[place])} in "
                "the other"
            )
            raise ValueError(
                f"data sets {first!r} and {name!r} are used by one model (DATASETS.TRAIN, DATASETS.TEST), but {how}: "
                "give them the same thing_classes, stuff_classes and thing_dataset_id_to_contiguous_id"
            )


def _unified_classes(dataset_name: str) -> list[tuple[str, bool]] | None:
    """Name of each class of things and stuff in one space, and whether it is a thing; None where it is not said."""
    names = unified_class_names(dataset_name)
    things = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    if names is None or things is None:
        return None
    return [(name, i in set(things.values())) for i, name in enumerate(names)]


def _described(named_class: tuple[str, bool]) -> str:
    name, is_thing = named_class
    return f"{name!r} ({'a thing' if is_thing else 'stuff'})"
