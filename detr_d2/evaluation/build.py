"""Which evaluators a data set needs."""

from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluator, DatasetEvaluators

from .panoptic import PanopticQualityEvaluator

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
    instances = COCOEvaluator(dataset_name, output_dir=output_folder)
    if evaluator_type == "coco":
        return instances
    # The second gives no results for a model without panoptic outputs.
    per_category = cfg.TEST.PER_CATEGORY_PQ
    return DatasetEvaluators(
        [instances, PanopticQualityEvaluator(dataset_name, output_folder, per_category=per_category)]
    )
