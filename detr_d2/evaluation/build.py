"""Which evaluators a data set needs."""

import logging
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from .coco import HotCOCOEvaluator
from .panoptic import PanopticQualityEvaluator
from .semantic import SemanticEvaluator

# What metadata.evaluator_type may be.
COCO_TYPES = ("coco", "coco_panoptic_seg")


def build_evaluator(cfg: CfgNode, dataset_name: str, output_folder: str | None = None) -> DatasetEvaluator:
    """The evaluator of ``dataset_name``'s annotations for what the model predicts.

    Args:
        cfg: ``OUTPUT_DIR`` holds the predictions, in ``inference/<dataset name>``.
        dataset_name: a registered data set with COCO annotations.
        output_folder: replaces that folder.

    Raises:
        ValueError: the data set's ``evaluator_type`` is not one of COCO's.
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
        return _boxes_and_masks(dataset_name, output_folder)
    return DatasetEvaluators(_panoptic_evaluators(cfg, dataset_name, output_folder))


def _panoptic_evaluators(cfg: CfgNode, dataset_name: str, output_folder: str) -> list[DatasetEvaluator]:
    """For what a panoptic data set is annotated with. Those of the second and third kind give no results for models
    without such outputs.
    """
    metadata = MetadataCatalog.get(dataset_name)
    evaluators: list[DatasetEvaluator] = []
    if metadata.get("json_file") and metadata.get("thing_dataset_id_to_contiguous_id"):
        evaluators.append(_boxes_and_masks(dataset_name, output_folder))
    else:
        logging.getLogger(__name__).warning(
            f"{dataset_name} has no things, or its metadata no json_file with their boxes and masks: boxes and masks "
            "are not evaluated."
        )
    if _has_separate_stuff(dataset_name):
        evaluators.append(SemanticEvaluator(dataset_name, output_dir=output_folder))
    per_category = cfg.TEST.PER_CATEGORY_PQ
    return [*evaluators, PanopticQualityEvaluator(dataset_name, output_folder, per_category=per_category)]


def _boxes_and_masks(dataset_name: str, output_folder: str) -> HotCOCOEvaluator:
    """Evaluates what the model predicts, or only ``coco_tasks`` of the metadata where the annotations hold no more."""
    tasks = MetadataCatalog.get(dataset_name).get("coco_tasks")
    return HotCOCOEvaluator(dataset_name, output_dir=output_folder, tasks=tasks)


def _has_separate_stuff(dataset_name: str) -> bool:
    """Whether stuff has semantic annotations and a class space of its own, as in Detectron2's ``*_separated`` data
    sets. In a unified space ``stuff_classes`` starts with the things, and no semantic map has such classes.
    """
    metadata = MetadataCatalog.get(dataset_name)
    things, stuff = metadata.get("thing_classes", []), metadata.get("stuff_classes", [])
    return metadata.get("sem_seg_root") is not None and bool(stuff) and (not things or stuff[: len(things)] != things)
