"""Semantic evaluation beside models with and without semantic output."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from PIL import Image
from torch.nn import functional as F

from detr_d2.evaluation import SemanticEvaluator

NAME = "shapes_val_separated"


@pytest.fixture
def evaluator(shapes_root, tmp_path) -> SemanticEvaluator:
    evaluator = SemanticEvaluator(NAME, output_dir=str(tmp_path))
    evaluator.reset()
    return evaluator


def test_ground_truth_against_itself(evaluator):
    for item in DatasetCatalog.get(NAME):
        truth = torch.from_numpy(np.array(Image.open(item["sem_seg_file_name"]), dtype=np.int64))
        scores = F.one_hot(truth.clamp(max=4), 5).permute(2, 0, 1)
        evaluator.process([item], [{"sem_seg": scores}])
    assert evaluator.evaluate()["sem_seg"]["mIoU"] == pytest.approx(100)


def test_models_without_semantic_outputs_get_no_results(evaluator):
    evaluator.process(DatasetCatalog.get(NAME)[:1], [{"instances": None}])
    assert evaluator.evaluate() == {}
