"""tools/summarize.py on the folder of a run, and what the end of a training and the demo make of it."""

import json
from pathlib import Path

import pytest

from detr_d2.cli import demo, explore, train_net
from detr_d2.cli.summarize import main
from detr_d2.engine import load_config

PICTURES = {"predictions.png", "errors.png", "precision_recall.png", "confusion_matrix.png", "worst_images.png"}


@pytest.fixture
def run(tmp_path: Path, repo: Path, shapes_root: Path) -> Path:
    """The folder of a run that finds every object but the circles, whose scores are those of noise."""
    cfg = load_config(str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), ["OUTPUT_DIR", str(tmp_path / "run")])
    folder = tmp_path / "run" / "inference" / "shapes_val"
    folder.mkdir(parents=True)
    (tmp_path / "run" / "config.yaml").write_text(cfg.dump())
    (tmp_path / "run" / "model_best.pth").touch()
    truth = json.loads((shapes_root / "shapes" / "annotations" / "instances_val.json").read_text())["annotations"]
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "bbox": a["bbox"], "score": 0.8}
        for a in truth
        if a["category_id"] != 1
    ]
    noise = [found[0] | {"bbox": [0, 0, 5, 5], "score": 0.3, "category_id": 1}]
    (folder / "coco_instances_results.json").write_text(json.dumps(found + noise))
    return tmp_path / "run"


def test_the_block_and_the_files(run, capsys):
    assert main([str(run)]) == 0
    rows = {line.split()[0]: line.split()[1:] for line in capsys.readouterr().out.splitlines() if line}
    assert rows["circle"][1:] == ["0.0", "0.0", "-", "0.0"]
    assert rows["star"][1:] == ["100.0", "100.0", "100.0", "100.0"]
    assert rows["all"][1:4] == ["75.0", "75.0", "100.0"]
    figures = json.loads((run / "results" / "errors.json").read_text())
    assert figures["threshold"] == 0.8
    recall = 100 * (figures["objects"] - int(rows["circle"][0])) / figures["objects"]
    assert figures["recall"] == pytest.approx(recall)
    assert {path.name for path in (run / "results").iterdir()} == {*PICTURES, "errors.json", "confusion_matrix.csv"}


def test_the_command_for_the_browser_works(run, capsys):
    assert main([str(run)]) == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("All images in a browser"))
    assert explore.main(line.split("explore.py ")[1].split()) == 0
    assert "shapes_val" in (run / "results" / "explore.html").read_text()


def test_what_is_no_run_is_named(run, capsys):
    assert main([str(run / "inference")]) == 1
    assert "inference has no config.yaml: name the OUTPUT_DIR of a training." in capsys.readouterr().err
    (run / "inference" / "shapes_val" / "coco_instances_results.json").unlink()
    assert main([str(run)]) == 1
    assert "no predictions below inference/: evaluate it first" in capsys.readouterr().err


def test_a_training_does_not_fail_with_its_pictures(run, caplog):
    (run / "inference" / "shapes_val" / "coco_instances_results.json").write_text("[{]")
    train_net.log_summary(run)
    assert "results is not complete" in caplog.text


@pytest.mark.parametrize(
    ("text", "threshold"),
    [
        ('{"threshold": 0.25}', 0.25),
        ('{"threshold": "high"}', 0.5),
        ("[", 0.5),
        ('{"threshold": NaN}', 0.5),
        ("{}", 0.5),
    ],
)
def test_the_demo_takes_the_threshold(tmp_path, text, threshold):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "errors.json").write_text(text)
    words = ["--weights", str(tmp_path / "model_best.pth"), "--input", "x.png", "--output", "y"]
    assert demo.parse_args(words).threshold == threshold
    assert demo.parse_args([*words, "--threshold", "0.7"]).threshold == 0.7
