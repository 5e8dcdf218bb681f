"""Data loaders: Detectron2's own, over data sets that were checked first and with the mapper that the config names."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import chain
from typing import Any

import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
)
from fvcore.common.registry import Registry

from .checks import check_dataset_dicts, check_dataset_name, readable_annotations
from .class_agreement import (
    SEMANTIC_ARCHITECTURES,
    check_same_classes,
    check_same_unified_classes,
    check_semantic_maps,
    separate_stuff,
    unified_class_names,
)

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "build_dataset_mapper",
    "build_test_loader",
    "build_train_loader",
    "class_keys_for",
    "class_names_of",
    "evaluation_images",
    "num_classes_of",
    "training_images",
]

DATASET_MAPPER_REGISTRY = Registry("DATASET_MAPPER")
DATASET_MAPPER_REGISTRY.__doc__ = """
Dataset mappers, called as ``mapper(cfg, is_train)``; ``INPUT.DATASET_MAPPER`` names one.
"""

# Where each meta-architecture keeps its number of classes. One that is not listed works, without the checks of classes.
_NUM_CLASSES_KEYS = {
    "DETR": "MODEL.DETR.NUM_CLASSES",
    "PanopticDETR": "MODEL.DETR.NUM_CLASSES",
    "DeformableDETR": "MODEL.DETR.NUM_CLASSES",
    "PanopticDeformableDETR": "MODEL.DETR.NUM_CLASSES",
    "FCOS": "MODEL.FCOS.NUM_CLASSES",
    "GeneralizedRCNN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "PanopticFPN": "MODEL.ROI_HEADS.NUM_CLASSES",
    "RetinaNet": "MODEL.RETINANET.NUM_CLASSES",
}

# Those that know which of their classes are things.
_PANOPTIC_DETRS = ("PanopticDETR", "PanopticDeformableDETR")

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]


def num_classes_of(cfg: CfgNode) -> tuple[int | None, str]:
    """The model's number of classes and the config key that holds it; (None, "") for an unknown meta-architecture."""
    key = _NUM_CLASSES_KEYS.get(cfg.MODEL.META_ARCHITECTURE)
    if key is None:
        return None, ""
    return reduce(getattr, key.split("."), cfg), key


def class_keys_for(cfg: CfgNode, dataset_name: str) -> dict[str, int | list[int]]:
    """The keys of the model that depend on the classes, with the values that a registered data set asks for.

    Without those that its metadata does not tell; empty for an unknown meta-architecture.
    """
    metadata, (_, key) = MetadataCatalog.get(dataset_name), num_classes_of(cfg)
    names = class_names_of(cfg, dataset_name)
    values: dict[str, int | list[int]] = {}
    if key and names is not None:
        values[key] = len(names)
    stuff = separate_stuff(dataset_name)
    if cfg.MODEL.META_ARCHITECTURE in SEMANTIC_ARCHITECTURES and stuff is not None:
        values["MODEL.SEM_SEG_HEAD.NUM_CLASSES"] = len(stuff)
    things = metadata.get("thing_dataset_id_to_contiguous_id")
    if cfg.MODEL.META_ARCHITECTURE in _PANOPTIC_DETRS and things is not None:  # which then need no metadata in use
        values["MODEL.PANOPTIC_DETR.THING_CLASSES"] = sorted(things.values())
    return values


def build_dataset_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """The mapper that ``INPUT.DATASET_MAPPER`` names; Detectron2's own where it is "".

    Raises:
        ValueError: if no mapper of that name is registered; lists those that are.
    """
    name = cfg.INPUT.DATASET_MAPPER
    if name == "":
        return DatasetMapper(cfg, is_train)
    if name not in DATASET_MAPPER_REGISTRY:
        known = ", ".join(sorted(n for n, _ in DATASET_MAPPER_REGISTRY))
        raise ValueError(
            f"INPUT.DATASET_MAPPER is {name!r}; registered are {known}, and '' for Detectron2's own mapper"
        )
    return DATASET_MAPPER_REGISTRY.get(name)(cfg, is_train)


def build_train_loader(cfg: CfgNode) -> Iterable[list[dict[str, Any]]]:
    """Endless batches of ``SOLVER.IMS_PER_BATCH`` images (over all processes) from ``DATASETS.TRAIN``, checked first.

    Every ``DATALOADER`` key means what it means in Detectron2.

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    return build_detection_train_loader(
        cfg, dataset=training_images(cfg), mapper=build_dataset_mapper(cfg, is_train=True)
    )


def training_images(cfg: CfgNode) -> list[dict[str, Any]] | torchdata.Dataset:
    """The images of ``DATASETS.TRAIN`` that training draws from, checked; what the mapper takes."""
    return _checked_dataset(
        cfg,
        cfg.DATASETS.TRAIN,
        is_train=True,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if cfg.MODEL.KEYPOINT_ON else 0,
        proposal_files=cfg.DATASETS.PROPOSAL_FILES_TRAIN if cfg.MODEL.LOAD_PROPOSALS else None,
    )


def build_test_loader(cfg: CfgNode, dataset_name: str) -> torchdata.DataLoader:
    """One pass over ``dataset_name``, which is checked, in batches of ``TEST.IMS_PER_BATCH`` in each process.

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    return build_detection_test_loader(
        evaluation_images(cfg, dataset_name),
        mapper=build_dataset_mapper(cfg, is_train=False),
        batch_size=cfg.TEST.IMS_PER_BATCH,
        num_workers=cfg.DATALOADER.NUM_WORKERS,
    )


def evaluation_images(cfg: CfgNode, dataset_name: str) -> list[dict[str, Any]] | torchdata.Dataset:
    """The images of ``dataset_name`` as evaluation reads them, checked; what the mapper takes."""
    proposal_files = None
    if cfg.MODEL.LOAD_PROPOSALS:
        proposal_files = [cfg.DATASETS.PROPOSAL_FILES_TEST[list(cfg.DATASETS.TEST).index(dataset_name)]]
    return _checked_dataset(cfg, [dataset_name], is_train=False, filter_empty=False, proposal_files=proposal_files)


def class_names_of(cfg: CfgNode, dataset_name: str) -> list[str] | None:
    """Names of the classes that the model of ``cfg`` learns from a data set, by contiguous id: things, or things and
    stuff where the mapper reads segments. None where the metadata does not say.
    """
    if reads_segments(cfg):
        return unified_class_names(dataset_name)
    return MetadataCatalog.get(dataset_name).get("thing_classes")


def _checked_dataset(
    cfg: CfgNode,
    names: Sequence[str],
    *,
    is_train: bool,
    filter_empty: bool,
    min_keypoints: int = 0,
    proposal_files: Iterable[str] | None = None,
) -> list[dict[str, Any]] | torchdata.Dataset:
    """What Detectron2's ``get_detection_dataset_dicts`` gives for these names, with each data set checked.

    Each is loaded on its own, so that errors name it, and without Detectron2's own check of the categories, whose bare
    assertion would come first. A data set that is registered as a torch ``Dataset`` is not a list and is not checked.
    """
    if not names:
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} is empty: name at least one data set")
    files = [None] * len(names) if proposal_files is None else [[file] for file in proposal_files]
    num_classes, key = num_classes_of(cfg)
    datasets = []
    for name, proposals in zip(names, files, strict=True):
        check_dataset_name(name)
        with readable_annotations(name):
            dataset = get_detection_dataset_dicts(
                name,
                filter_empty=filter_empty,
                min_keypoints=min_keypoints,
                proposal_files=proposals,
                check_consistency=False,
            )
        if isinstance(dataset, list):
            class_names = None
            if reads_segments(cfg):  # beside which a data set may have annotations in a class space of their own
                dataset = [{k: v for k, v in d.items() if k != "annotations"} for d in dataset]
                class_names = unified_class_names(name)
            dataset = check_dataset_dicts(
                dataset,
                name,
                num_classes=num_classes,
                class_names=class_names,
                num_classes_key=key,
                drop_degenerate_boxes=cfg.INPUT.DROP_DEGENERATE_BOXES,
                # Detectron2's own mapper skips nothing
                skip_unreadable_images=cfg.INPUT.SKIP_UNREADABLE_IMAGES and cfg.INPUT.DATASET_MAPPER != "",
                is_train=is_train,
                annotation_files=_annotation_files(cfg) if is_train else (),
            )
            check_semantic_maps(cfg, dataset, name, is_train)
        else:
            logging.getLogger(__name__).info(f"data set {name!r} is a torch Dataset: not checked")
        datasets.append(dataset)

    if not all(isinstance(dataset, list) for dataset in datasets):
        return datasets[0] if len(datasets) == 1 else torchdata.ConcatDataset(datasets)
    dataset_dicts = list(chain.from_iterable(datasets))
    if reads_segments(cfg):
        check_same_unified_classes(names if is_train else [*cfg.DATASETS.TRAIN, *names])
    else:
        check_same_classes(names, dataset_dicts)
    return dataset_dicts


def reads_segments(cfg: CfgNode) -> bool:
    """Whether the mapper takes its objects from panoptic segments, whose classes are things and stuff together."""
    name = cfg.INPUT.DATASET_MAPPER
    return name in DATASET_MAPPER_REGISTRY and getattr(DATASET_MAPPER_REGISTRY.get(name), "reads_segments", False)


def _annotation_files(cfg: CfgNode) -> tuple[str, ...]:
    """The entries of a dataset dict that name a file which the mapper reads in training, beside the image."""
    if reads_segments(cfg):
        return ("pan_seg_file_name",)
    return ("sem_seg_file_name",) if cfg.INPUT.DATASET_MAPPER == "" else ()
