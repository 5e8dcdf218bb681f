"""Images and annotations: augmentation, dataset mappers, checks, loaders, and the data sets that the yaml files name.

Importing it registers the dataset mappers and the data sets.
"""

from . import datasets
from .augmentation import AUGMENTATION_REGISTRY, build_augmentation, build_detr_augmentation
from .build import (
    DATASET_MAPPER_REGISTRY,
    build_dataset_mapper,
    build_test_loader,
    build_train_loader,
    class_keys_for,
    class_names_of,
    evaluation_images,
    num_classes_of,
    training_images,
)
from .checks import check_dataset_dicts
from .dataset_mappers import DetrDatasetMapper
from .datasets.custom import register_datasets
from .panoptic_mapper import PanopticDatasetMapper

__all__ = [
    "AUGMENTATION_REGISTRY",
    "DATASET_MAPPER_REGISTRY",
    "DetrDatasetMapper",
    "PanopticDatasetMapper",
    "build_augmentation",
    "build_dataset_mapper",
    "build_detr_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_dataset_dicts",
    "class_keys_for",
    "class_names_of",
    "datasets",
    "evaluation_images",
    "num_classes_of",
    "register_datasets",
    "training_images",
]
