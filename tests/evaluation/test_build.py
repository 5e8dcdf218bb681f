"""The evaluator of a data set."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from detr_d2.evaluation import build_evaluator


def test_coco_types(small_detr_cfg, shapes_root, tmp_path):
    evaluator = build_evaluator(small_detr_cfg, "shapes_val", str(tmp_path))
    assert isinstance(evaluator, DatasetEvaluators)
    MetadataCatalog.get("boxes_only").set(evaluator_type="coco", json_file=MetadataCatalog.get("shapes_val").json_file)
    assert isinstance(build_evaluator(small_detr_cfg, "boxes_only", str(tmp_path)), COCOEvaluator)


def test_unknown_type_is_named(small_detr_cfg):
    MetadataCatalog.get("no_annotations_here").evaluator_type = "lvis"
    with pytest.raises(ValueError, match=r"DATASETS\.TEST.*'no_annotations_here'.*'lvis'"):
        build_evaluator(small_detr_cfg, "no_annotations_here")
