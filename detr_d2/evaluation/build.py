"""Which evaluators a dataset needs."""

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from ..facts import model_class_names, reads_segments, separate_stuff, unified_class_names
from .coco import HotCOCOEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator, UnifiedSemanticEvaluator

# What metadata.evaluator_type may be.
COCO_TYPES = ("coco", "coco_panoptic_seg")


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """The evaluator of ``dataset_name``'s annotations for what the model predicts.

    Args:
        cfg: ``OUTPUT_DIR`` holds the predictions, in ``inference/<dataset name>``.
        dataset_name: a registered dataset with COCO annotations.
        output_folder: replaces that folder.

    Raises:
        ValueError: the dataset's ``evaluator_type`` is not one of COCO's.
    """
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type")
    if evaluator_type not in COCO_TYPES:
        raise ValueError(
            f"DATASETS.TEST names {dataset_name!r}, whose evaluator_type is {evaluator_type!r}; this package evaluates "
            f"{', '.join(COCO_TYPES)}. Set MetadataCatalog.get({dataset_name!r}).evaluator_type, or override "
            "Trainer.build_evaluator."
        )
    if output_folder is None:
        output_folder = str(Path(cfg.OUTPUT_DIR, "inference", dataset_name))
    if evaluator_type == "coco":
        return _boxes_and_masks(cfg, dataset_name, output_folder)
    return DatasetEvaluators(_panoptic_evaluators(cfg, dataset_name, output_folder))


def _panoptic_evaluators(cfg: CfgNode, dataset_name: str, output_folder: str) -> list[DatasetEvaluator]:
    """For what a panoptic dataset is annotated with. All but the first give no results for models
    without such outputs.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if metadata.get("json_file") and metadata.get("thing_dataset_id_to_contiguous_id"):
        evaluators.append(_boxes_and_masks(cfg, dataset_name, output_folder))
    else:
        logging.getLogger(__name__).warning(
            f"{dataset_name} has no things, or its metadata no json_file with their boxes and masks: boxes and masks "
            "are not evaluated."
        )
    if metadata.get("sem_seg_root") and separate_stuff(dataset_name):
        evaluators.append(SemanticEvaluator(dataset_name, output_dir=output_folder))
    elif unified_class_names(dataset_name):
        evaluators.append(UnifiedSemanticEvaluator(dataset_name))
    per_category = cfg.TEST.PER_CATEGORY_PQ
    return [*evaluators, PanopticQualityEvaluator(dataset_name, output_folder, per_category=per_category)]


def _boxes_and_masks(cfg: CfgNode, dataset_name: str, output_folder: str) -> HotCOCOEvaluator:
    """Of the things, which a model that reads segments has first among its classes."""
    names = None if reads_segments(cfg) else model_class_names(cfg)
    return HotCOCOEvaluator(
        dataset_name, output_folder, class_names=names, max_detections=cfg.TEST.DETECTIONS_PER_IMAGE
    )
