"""tools/train_net.py on data sets that only its command line names: training, two processes, another folder."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

SMALL = [
    *["TEST.SUMMARY", "False"],
    *["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"],
    *["SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0", "INPUT.MIN_SIZE_TRAIN"],
    *["(64,)", "INPUT.MIN_SIZE_TEST", "64", "MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.05"],
]
THINGS = {0: "cat", 17: "dog", 9_000_000_000_001: "owl"}


@pytest.fixture
def words(repo, tmp_path):
    """The command line of a small run into tmp_path/out on the first entry, evaluated on the last."""

    def words(config: str, *entries: dict) -> list[str]:
        data = ["DATASETS.CUSTOM", json.dumps(entries), "OUTPUT_DIR", str(tmp_path / "out")]
        data += ["DATASETS.TRAIN", str((entries[0]["name"],)), "DATASETS.TEST", str((entries[-1]["name"],))]
        return ["--config-file", str(repo / "configs" / "Shapes" / f"{config}.yaml"), *SMALL, *data]

    return words


@pytest.fixture
def run(load_tool):
    train_net = load_tool("train_net")

    def run(words: list[str]) -> dict | None:
        args = train_net.build_parser().parse_args(words)
        return train_net.run(args, train_net.setup(args))

    return run


def results_of(out: Path, name: str) -> list[dict]:
    return json.loads((out / "inference" / name / "coco_instances_results.json").read_text())


def test_two_processes_then_evaluation_from_another_folder(own_data, words, repo, run, tmp_path, monkeypatch):
    entries = [own_data(name, THINGS) for name in ("mine_train", "mine_val")]
    for entry in entries:
        entry.update({k: os.path.relpath(v, tmp_path) for k, v in entry.items() if k != "name"})
    flags = ["--num-gpus", "2", "--dist-url", "auto"]
    process = subprocess.run(
        [sys.executable, repo / "tools" / "train_net.py", *flags, *words("detr_R_18", *entries)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)},
        cwd=tmp_path,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    out = tmp_path / "out"
    assert process.returncode == 0, process.stdout
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["dataset_metadata"] == {
        "thing_classes": ["cat", "dog", "owl"],
        "thing_dataset_id_to_contiguous_id": {0: 0, 17: 1, 9_000_000_000_001: 2},
    }
    assert state["model"]["class_embed.weight"].shape[0] == 4
    assert {result["image_id"] for result in results_of(out, "mine_val")} == {0, 7, 14, 21, 28, 35}
    assert {result["category_id"] for result in results_of(out, "mine_val")} <= THINGS.keys()

    monkeypatch.chdir(repo)
    (tmp_path / "mine_train" / "boxes.json").unlink()  # evaluation does not need it
    evaluate = ["--config-file", str(out / "config.yaml"), "--eval-only", "MODEL.WEIGHTS", str(out / "model_final.pth")]
    assert run(evaluate)["bbox"].keys() >= {"AP", "AP-cat", "AP-dog", "AP-owl"}


def test_panoptic_and_resume(own_data, words, run, tmp_path):
    entry, out = own_data("mine", THINGS, {4: "sky", 10**12: "sea"}), tmp_path / "out"
    command = words("panoptic_detr_R_18", entry)
    run(command)
    run([*command[:2], "--resume", *command[2:], "SOLVER.MAX_ITER", "3"])
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 2
    assert state["dataset_metadata"] == {
        "thing_classes": ["cat", "dog", "owl"],
        "stuff_classes": ["cat", "dog", "owl", "sky", "sea"],
        "thing_dataset_id_to_contiguous_id": {0: 0, 17: 1, 9_000_000_000_001: 2},
        "stuff_dataset_id_to_contiguous_id": {4: 3, 10**12: 4},
    }
    results = run(["--config-file", str(out / "config.yaml"), "--eval-only", "--resume"])
    assert results.keys() == {"bbox", "segm", "panoptic_seg"}
    written = json.loads((out / "inference" / "mine" / "panoptic_predictions.json").read_text())
    used = {s["category_id"] for a in written["annotations"] for s in a["segments_info"]}
    assert used <= {*THINGS, 4, 10**12}


def test_masks_are_evaluated_where_there_are_any(own_data, words, run, tmp_path):
    """Mask R-CNN cannot learn masks from boxes, but can be evaluated on them."""
    masks, boxes = own_data("masks", THINGS), own_data("boxes", THINGS, masks=False)
    classes = ["MODEL.ROI_HEADS.NUM_CLASSES", "3"]  # of Shapes, the config says 4
    run([*words("mask_rcnn_R_18", masks), *classes])
    evaluate = [
        *words("mask_rcnn_R_18", masks, boxes),
        *classes,
        "MODEL.WEIGHTS",
        str(tmp_path / "out" / "model_final.pth"),
    ]
    results = run([*evaluate[:2], "--eval-only", *evaluate[2:], "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"])
    assert results.keys() == {"bbox"}
    written = json.loads((tmp_path / "out" / "inference" / "boxes" / "coco_instances_results.json").read_text())
    assert all("segmentation" in result for result in written)


def test_a_random_class_head_is_not_evaluated(own_data, words, run, tmp_path):
    """The config.yaml of a fine-tuning names the weights that it started from."""
    three, two = own_data("three", THINGS), own_data("two", {1: "cat", 2: "dog"})
    run([*words("detr_R_18", three), "SOLVER.MAX_ITER", "1"])
    start = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth"), "MODEL.REINIT_CLASS_HEAD", "True"]
    out = str(tmp_path / "fine")
    run([*words("detr_R_18", two), "SOLVER.MAX_ITER", "1", *start, "OUTPUT_DIR", out])
    evaluate = ["--config-file", f"{out}/config.yaml", "--eval-only"]
    with pytest.raises(ValueError, match=r"out/model_final.pth has other classes than the model"):
        run(evaluate)
    assert "bbox" in run([*evaluate, "MODEL.WEIGHTS", f"{out}/model_final.pth"])
