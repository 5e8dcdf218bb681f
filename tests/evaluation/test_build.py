"""The evaluator of a dataset."""

import pytest
from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators

from detr_d2.evaluation import (
    HotCOCOEvaluator,
    PanopticQualityEvaluator,
    SemanticEvaluator,
    UnifiedSemanticEvaluator,
    build_evaluator,
)


def test_coco_types(small_detr_cfg, shapes_root, tmp_path):
    evaluator = build_evaluator(small_detr_cfg, "shapes_val", str(tmp_path))
    assert isinstance(evaluator, DatasetEvaluators)
    MetadataCatalog.get("boxes_only").set(evaluator_type="coco", json_file=MetadataCatalog.get("shapes_val").json_file)
    assert isinstance(build_evaluator(small_detr_cfg, "boxes_only", str(tmp_path)), COCOEvaluator)


def test_unknown_type_is_named(small_detr_cfg):
    MetadataCatalog.get("no_annotations_here").evaluator_type = "lvis"
    with pytest.raises(ValueError, match=r"DATASETS\.TEST.*'no_annotations_here'.*'lvis'"):
        build_evaluator(small_detr_cfg, "no_annotations_here")


def kinds(cfg, name: str, folder) -> list[type]:
    return [type(evaluator) for evaluator in build_evaluator(cfg, name, str(folder))._evaluators]


def test_semantic_evaluation_where_stuff_has_classes_of_its_own(small_detr_cfg, shapes_root, tmp_path):
    unified = [HotCOCOEvaluator, UnifiedSemanticEvaluator, PanopticQualityEvaluator]
    assert kinds(small_detr_cfg, "shapes_val", tmp_path) == unified
    separated = [HotCOCOEvaluator, SemanticEvaluator, PanopticQualityEvaluator]
    assert kinds(small_detr_cfg, "shapes_val_separated", tmp_path) == separated
    # Detectron2's own: only the separated ones have semantic maps.
    assert MetadataCatalog.get("coco_2017_val_panoptic_separated").sem_seg_root
    assert MetadataCatalog.get("coco_2017_val_panoptic").get("sem_seg_root") is None


def test_without_things_there_are_no_boxes_to_evaluate(small_detr_cfg, shapes_root, tmp_path, caplog):
    of_shapes = MetadataCatalog.get("shapes_val").as_dict()
    changed = {"stuff_only": {"thing_dataset_id_to_contiguous_id": {}}, "no_boxes": {"json_file": None}}
    for name, change in changed.items():
        MetadataCatalog.get(name).set(**{k: v for k, v in of_shapes.items() if k != "name"} | change)
        assert kinds(small_detr_cfg, name, tmp_path) == [UnifiedSemanticEvaluator, PanopticQualityEvaluator]
        assert f"{name} has no things, or its metadata no json_file" in caplog.text
        MetadataCatalog.remove(name)
