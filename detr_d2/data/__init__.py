"""Images and annotations: augmentation, dataset mappers, checks, loaders, and the datasets that the yaml files name.

Importing it registers the dataset mappers and the datasets.
"""

from . import datasets, real_time_augmentation
from .augmentation import (
    AUGMENTATION_REGISTRY,
    build_augmentation,
    build_detr_augmentation,
    build_large_scale_jitter,
    squashed_size,
)
from .build import (
    batches_of_one_size,
    build_dataset_mapper,
    build_test_loader,
    build_train_loader,
    build_validation_loader,
    check_test_sets,
    evaluation_images,
    training_images,
)
from .dataset_mappers import DetrDatasetMapper
from .datasets.custom import register_datasets
from .panoptic_mapper import Mask2FormerPanopticMapper, PanopticDatasetMapper
