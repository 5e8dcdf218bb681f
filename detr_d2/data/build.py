"""Data loaders: Detectron2's own, over datasets that were checked first and with the mapper that the config names."""

import logging
from collections.abc import Callable, Hashable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import chain
from typing import Any

import torch
import torch.utils.data as torchdata
from detectron2.config import CfgNode
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MapDataset,
    build_detection_test_loader,
    build_detection_train_loader,
)
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
    trivial_batch_collator,
)
from detectron2.data.samplers import InferenceSampler
from tabulate import tabulate

from ..facts import DATASET_MAPPER_REGISTRY, class_names_of, reads_segments
from .augmentation import build_augmentation
from .checks import (
    Demands,
    Problems,
    check_dataset_dicts,
    check_dataset_name,
    check_same_classes,
    check_test_classes,
    readable_annotations,
)
from .checks.files import check_size
from .checks.rules import Records
from .image_lists import class_counts, joined, parts_of, shared, sizes_of
from .train_loader import TrainLoader, small_batch

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
    """Endless batches from ``DATASETS.TRAIN``, checked first, of ``SOLVER.IMS_PER_BATCH`` images over all processes and
    the ``SOLVER.ACCUMULATE_STEPS`` small batches of a step.

    Every ``DATALOADER`` key means what it means in Detectron2. The loader has a ``state_dict``, from which another goes
    on (`TrainLoader`), unless a dataset is registered as a torch ``Dataset``, for which it is Detectron2's own.

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    images, mapper = training_images(cfg), build_dataset_mapper(cfg, is_train=True)
    if isinstance(images, Sequence):
        return TrainLoader(cfg, images, mapper)
    return build_detection_train_loader(cfg, dataset=images, mapper=mapper, total_batch_size=small_batch(cfg))


def training_images(cfg: CfgNode) -> Sequence[dict[str, Any]] | torchdata.Dataset:
    """The images of ``DATASETS.TRAIN`` that training draws from, checked; what the mapper takes."""
    return _checked_dataset(cfg, cfg.DATASETS.TRAIN, is_train=True)


def build_test_loader(cfg: CfgNode, dataset_name: str) -> torchdata.DataLoader:
    """One pass over ``dataset_name``, which is checked, in batches of up to ``TEST.IMS_PER_BATCH`` in each process.

    Images of one size share batches, so that none is padded for another's sake: results do not depend on the batch,
    for models too that do not tell padding from image. (A dataset that is no list is batched as it comes.)

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    images, mapper = evaluation_images(cfg, dataset_name), build_dataset_mapper(cfg, is_train=False)
    workers, size = cfg.DATALOADER.NUM_WORKERS, cfg.TEST.IMS_PER_BATCH
    if not isinstance(images, Sequence):
        return build_detection_test_loader(images, mapper=mapper, batch_size=size, num_workers=workers)
    mine = list(InferenceSampler(len(images)))
    shapes = list(map(tuple, sizes_of(images)[mine].tolist()))
    return torchdata.DataLoader(
        MapDataset(shared(images), mapper),
        batch_sampler=[[mine[i] for i in batch] for batch in batches_of_one_size(shapes, size)],
        num_workers=workers,
        collate_fn=trivial_batch_collator,
    )


def build_validation_loader(cfg: CfgNode, dataset_name: str) -> torchdata.DataLoader:
    """One pass over this process's share of ``dataset_name``, image by image, as evaluation sees them and with what
    training learns of them. They are checked as training's are.

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    images = _checked_dataset(cfg, [dataset_name], is_train=True, keeps_empty=True)
    check_same_classes(cfg, [*cfg.DATASETS.TRAIN[:1], dataset_name])
    mapper = build_dataset_mapper(cfg, is_train=True)
    mapper.augmentations = build_dataset_mapper(cfg, is_train=False).augmentations
    return torchdata.DataLoader(
        MapDataset(shared(images) if isinstance(images, Sequence) else images, mapper),
        sampler=InferenceSampler(len(images)),
        num_workers=cfg.DATALOADER.NUM_WORKERS,
        collate_fn=trivial_batch_collator,
        generator=torch.Generator(),  # else it draws from the generator of the model
    )


def batches_of_one_size(sizes: Sequence[Hashable], batch_size: int) -> list[list[int]]:
    """Indices of items of one size, at most ``batch_size`` at once, in the order of their first ones."""
    by_size: dict[Hashable, list[int]] = {}
    for i, size in enumerate(sizes):
        by_size.setdefault(size, []).append(i)
    return sorted(same[i : i + batch_size] for same in by_size.values() for i in range(0, len(same), batch_size))


def check_test_sets(cfg: CfgNode) -> None:
    """Find before training what evaluation would not survive after it: what is wrong with a dataset of
    ``DATASETS.TEST``, with its classes, or with the head of one of its images.

    Raises:
        ValueError, FileNotFoundError: what ``detr_d2.data.checks`` finds.
    """
    for name in cfg.DATASETS.TEST:
        if cfg.TEST.LOSSES:
            build_validation_loader(cfg, name)
        images = evaluation_images(cfg, name)
        if isinstance(images, Sequence):
            with ThreadPoolExecutor() as pool:
                problems = Problems(chain.from_iterable(pool.map(check_size, images)))
            problems.raise_first(name)


def evaluation_images(cfg: CfgNode, dataset_name: str) -> Sequence[dict[str, Any]] | torchdata.Dataset:
    """The images of ``dataset_name`` as evaluation reads them, checked; what the mapper takes."""
    return _checked_dataset(cfg, [dataset_name], is_train=False)


def _checked_dataset(
    cfg: CfgNode, names: Sequence[str], *, is_train: bool, keeps_empty: bool = False
) -> Sequence[dict[str, Any]] | torchdata.Dataset:
    """What Detectron2's ``get_detection_dataset_dicts`` gives for these names, with each dataset checked; with
    ``keeps_empty``, images without objects stay, whatever ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` says.

    Each is loaded on its own, so that errors name it, and without Detectron2's own check of the categories, whose bare
    assertion would come first. A dataset that is registered as a torch ``Dataset`` is not a list and is not checked.
    """
    if not names:
        raise ValueError(f"DATASETS.{'TRAIN' if is_train else 'TEST'} is empty: name at least one dataset.")
    if cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(
            "MODEL.LOAD_PROPOSALS is on, but files of proposals are pickles, which Detectron2 lets run any code: train "
            "such a model with Detectron2's own tools, if you trust them."
        )
    keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE if is_train and cfg.MODEL.KEYPOINT_ON else 0
    datasets = []
    for name in names:
        check_dataset_name(name)
        with readable_annotations(name):
            filters = is_train and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS and not keeps_empty
            dataset = _filtered(name, DatasetCatalog.get(name), filters, keypoints)
        if isinstance(dataset, Sequence):
            # The metadata of some datasets names the classes once they are loaded.
            class_names = class_names_of(cfg, name)
            demands = Demands.of(cfg, is_train=is_train)
            if demands.num_classes is None and class_names is not None:
                demands = replace(demands, num_classes=len(class_names))
            dataset = check_dataset_dicts(dataset, name, demands, class_names)
            if not is_train:
                check_test_classes(cfg, name)
        else:
            logging.getLogger(__name__).info(f"Dataset {name!r} is a torch Dataset: not checked.")
        datasets.append(dataset)

    if not all(isinstance(dataset, Sequence) for dataset in datasets):
        return datasets[0] if len(datasets) == 1 else torchdata.ConcatDataset(datasets)
    images = joined(datasets)
    if is_train:
        check_same_classes(cfg, names)
    if not reads_segments(cfg) and class_names is not None and all(map(_has_annotations, parts_of(images))):
        _log_class_counts(images, class_names)
    return images


def _filtered(
    name: str, images: Sequence[dict[str, Any]] | torchdata.Dataset, filter_empty: bool, min_keypoints: int
) -> Sequence[dict[str, Any]] | torchdata.Dataset:
    """What Detectron2's ``get_detection_dataset_dicts`` makes of the images of a dataset."""
    if isinstance(images, torchdata.Dataset):
        return images
    assert len(images), f"Dataset {name!r} is empty!"
    has_instances = "annotations" in images[0]
    if filter_empty and has_instances:
        images = (
            images.with_objects() if isinstance(images, Records) else filter_images_with_only_crowd_annotations(images)
        )
    if min_keypoints > 0 and has_instances:
        images = filter_images_with_few_keypoints(images, min_keypoints)
    assert len(images), f"No valid data found in {name}."
    return images


def _has_annotations(images: Sequence[dict[str, Any]]) -> bool:
    return images.has("annotations") if isinstance(images, Records) else all("annotations" in d for d in images)


def _log_class_counts(images: Sequence[dict[str, Any]], class_names: Sequence[str]) -> None:
    counts = class_counts(images, len(class_names)).tolist()
    rows = [*zip(class_names, counts, strict=True), ("total", sum(counts))]
    table = tabulate(rows, headers=["category", "#instances"], tablefmt="pipe")
    logging.getLogger(__name__).info(f"Distribution of instances among all {len(class_names)} categories:\n{table}")
