"""Images and annotations: augmentation, dataset mappers, checks, loaders, and the data sets that the yaml files name.

Importing it registers the dataset mappers and the data sets.
"""

from . import datasets
from .augmentation import build_detr_augmentation
from .build import (
    DATASET_MAPPER_REGISTRY,
    build_dataset_mapper,
    build_test_loader,
    build_train_loader,
    num_classes_of,
)
from .checks import check_dataset_dicts
from .dataset_mappers import DetrDatasetMapper
from .panoptic_mapper import PanopticDatasetMapper

__all__ = [
    "DATASET_MAPPER_REGISTRY",
    "DetrDatasetMapper",
    "PanopticDatasetMapper",
    "build_dataset_mapper",
    "build_detr_augmentation",
    "build_test_loader",
    "build_train_loader",
    "check_dataset_dicts",
    "datasets",
    "num_classes_of",
]
