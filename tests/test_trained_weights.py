"""The trained weights in ``configs/`` give their figures: what random ones cannot show, from a file to AP."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from detr_d2 import Predictor, model_zoo
from detr_d2.data.datasets.shapes import register_shapes
from detr_d2.data.datasets.shapes_generator import generate_shapes
from detr_d2.engine import Trainer, load_trained_model, prepare_device

REPO = Path(__file__).resolve().parents[1]
# Measured on one machine; others may differ in the last digit.
FIGURES = {
    "Shapes/dino_R_18": {"bbox/AP": 70.58, "bbox/AP50": 91.57, "bbox/AP75": 84.53},
    "BloodCells/dino": {"bbox/AP": 46.65, "bbox/AP50": 75.12},  # whose images are not in this repository
}


@pytest.fixture(scope="module")
def validation_images(tmp_path_factory) -> Iterator[Path]:
    """Shapes' 300 validation images, in a folder of their own; what other tests generate has fewer."""
    root = tmp_path_factory.mktemp("shapes")
    generate_shapes(root, split="val", num_images=300)
    register_shapes(root)
    yield root
    register_shapes(os.environ["DETECTRON2_DATASETS"])


@pytest.mark.parametrize("name", FIGURES)
def test_figures(name, request, tmp_path, monkeypatch):
    if name.startswith("BloodCells"):
        root = Path(os.environ.get("DETR_D2_TEST_DATASETS", REPO.parent / "shared" / "datasets"))
        if not (root / "bccd" / "val.json").is_file():
            pytest.skip(f"needs {root / 'bccd'} (set DETR_D2_TEST_DATASETS)")
        (tmp_path / "datasets").symlink_to(root)
        monkeypatch.chdir(tmp_path)  # the config names datasets/bccd
    else:
        request.getfixturevalue("validation_images")
    cfg = model_zoo.get_config(name, trained=True)
    assert Path(cfg.MODEL.WEIGHTS).stat().st_size < 4e6
    cfg.merge_from_list(["OUTPUT_DIR", str(tmp_path), "DATALOADER.NUM_WORKERS", "0"])
    prepare_device(cfg)
    results = Trainer.test(cfg, load_trained_model(cfg))
    for key, value in FIGURES[name].items():
        task, metric = key.split("/")
        assert results[task][metric] == pytest.approx(value, abs=0.02), key


def test_a_predictor_of_them_by_name(validation_images):
    predictor = Predictor("Shapes/dino_R_18", device="cpu")
    output = predictor(str(next((validation_images / "shapes" / "val").glob("*.png"))))
    assert predictor.metadata.thing_classes == ["circle", "square", "triangle", "star"]
    assert output["instances"].scores[0] > 0.5
