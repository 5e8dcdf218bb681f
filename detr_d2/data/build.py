"""Data loaders: Detectron2's own, over datasets that were checked first and with the mapper that the config names."""

import logging
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import Any

import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetMapper,
    build_detection_test_loader,
    build_detection_train_loader,
    get_detection_dataset_dicts,
    print_instances_class_histogram,
)

from ..facts import DATASET_MAPPER_REGISTRY, class_names_of, reads_segments
from .augmentation import build_augmentation
from .checks import Demands, check_dataset_dicts, check_dataset_name, check_same_classes, readable_annotations

Mapper = Callable[[dict[str, Any]], dict[str, Any] | None]


def build_dataset_mapper(cfg: CfgNode, is_train: bool) -> Mapper:
    """The mapper that ``INPUT.DATASET_MAPPER`` names; Detectron2's own where it is "".

    Raises:
        ValueError: if no mapper of that name is registered; lists those that are.
    """
    name = cfg.INPUT.DATASET_MAPPER
    if name == "":
        named = {"augmentations": build_augmentation(cfg, is_train)} if cfg.INPUT.AUGMENTATION else {}
        return DatasetMapper(cfg, is_train, **named)
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


def _checked_dataset(
    cfg: CfgNode,
    names: Sequence[str],
    *,
    is_train: bool,
    filter_empty: bool,
    min_keypoints: int = 0,
    proposal_files: Iterable[str] | None = None,
) -> list[dict[str, Any]] | torchdata.Dataset:
    """What Detectron2's ``get_detection_dataset_dicts`` gives for these names, with each dataset checked.

    Each is loaded on its own, so that errors name it, and without Detectron2's own check of the categories, whose bare
    assertion would come first. A dataset that is registered as a torch ``Dataset`` is not a list and is not checked.
    """
    if not names:
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} is empty: name at least one dataset.")
    files = [None] * len(names) if proposal_files is None else [[file] for file in proposal_files]
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
            # The metadata of some datasets names the classes once they are loaded.
            demands, class_names = Demands.of(cfg, is_train=is_train), class_names_of(cfg, name)
            dataset = check_dataset_dicts(dataset, name, demands, class_names)
        else:
            logging.getLogger(__name__).info(f"Dataset {name!r} is a torch Dataset: not checked.")
        datasets.append(dataset)

    if not all(isinstance(dataset, list) for dataset in datasets):
        return datasets[0] if len(datasets) == 1 else torchdata.ConcatDataset(datasets)
    dataset_dicts, segments = list(chain.from_iterable(datasets)), reads_segments(cfg)
    check_same_classes(cfg, [*cfg.DATASETS.TRAIN, *names] if segments and not is_train else names)
    if not segments and class_names is not None and all("annotations" in d for d in dataset_dicts):
        print_instances_class_histogram(dataset_dicts, class_names)
    return dataset_dicts
