"""tools/train_net.py as its users run it, on a few Shapes images."""

import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils.logger import setup_logger
from PIL import Image

from detr_d2.engine import fit_minutes, load_config

SMALL = [
    *["TEST.SUMMARY", "False"],
    *["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "4"],
    *["SOLVER.WARMUP_ITERS", "0", "SOLVER.CHECKPOINT_PERIOD", "2", "TEST.EVAL_PERIOD", "0"],
    *["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"],
]


@pytest.fixture(scope="module")
def train_net(load_tool):
    return load_tool("train_net")


@pytest.fixture
def words(repo, shapes_root, tmp_path):
    """The command line of a small run on Shapes into tmp_path/out, with flags and overrides added."""

    def words(*overrides: str, flags: tuple[str, ...] = (), config: str = "detr_R_18") -> list[str]:
        config = str(repo / "configs" / "Shapes" / f"{config}.yaml")
        return ["--config-file", config, *flags, *SMALL, "OUTPUT_DIR", str(tmp_path / "out"), *overrides]

    return words


@pytest.fixture
def run(train_net, words):
    """Run the tool's one-process path here."""

    def run(*overrides: str, **kwargs) -> dict | None:
        args = train_net.build_parser().parse_args(words(*overrides, **kwargs))
        return train_net.run(args, train_net.setup(args))

    return run


@pytest.fixture
def start(repo, words, shapes_root, tmp_path):
    """Start the tool in a process of its own."""

    def start(*overrides: str, **kwargs) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(repo / "tools" / "train_net.py"), *words(*overrides, **kwargs)],
            env=os.environ | {"DETECTRON2_DATASETS": str(shapes_root), "OMP_NUM_THREADS": "1"},
            cwd=tmp_path,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    return start


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]


def merged(lines: list[dict]) -> dict:
    """The last value of everything: the final evaluation has a line of its own."""
    return {name: value for line in lines for name, value in line.items()}


def test_a_training_ends_with_a_summary(run, tmp_path, capfd):
    run("SOLVER.MAX_ITER", "1", "TEST.SUMMARY", "True")
    assert {"curves.png", "predictions.png", "errors.json"} <= set(os.listdir(tmp_path / "out" / "results"))
    assert "Results on shapes_val (8 images)" in (tmp_path / "out" / "log.txt").read_text()


def test_trains_evaluates_and_resumes(run, tmp_path):
    out = tmp_path / "out"
    run("TEST.EVAL_PERIOD", "2")
    last = merged(metrics(out))
    assert last["iteration"] == 4
    assert {"class_error", "cardinality_error", "bbox/AP", "bbox/AP50", "lr", "time", "data_time"} <= last.keys()
    assert {"model_final.pth", "model_best.pth", "model_0000001.pth", "config.yaml", "log.txt"} <= set(os.listdir(out))
    assert list(out.glob("events.out.tfevents*"))
    assert (out / "inference" / "shapes_val" / "coco_instances_results.json").is_file()
    assert "trainer" not in torch.load(out / "model_best.pth", weights_only=True)
    trainer = torch.load(out / "model_final.pth", weights_only=True)["trainer"]
    assert trainer["hooks"]["BestCheckpointer"].keys() == {"best_metric", "best_iter"}
    assert not (out / "results").exists()

    assert (out / "last_checkpoint").read_text() == "model_final.pth"

    run("SOLVER.MAX_ITER", "6", flags=("--resume",))
    assert [line["iteration"] for line in metrics(out)][-1] == 6
    state = torch.load(out / "model_final.pth", weights_only=True)
    assert state["iteration"] == 5
    steps = [entry["step"] for entry in state["trainer"]["_trainer"]["optimizer"]["state"].values()]
    assert {int(step) for step in steps} == {6}  # none skipped, none twice
    assert state["trainer"]["hooks"]["LRScheduler"]["last_epoch"] == 6


def test_eval_only_and_expected_results(run, tmp_path):
    run("SOLVER.MAX_ITER", "1")
    # total_loss is the weighted sum of the losses and nothing else; the metrics stand beside it.
    line = merged(metrics(tmp_path / "out"))
    losses = sum(value for name, value in line.items() if name.startswith("loss_"))
    assert line["total_loss"] == pytest.approx(losses, rel=1e-5)

    weights = ["MODEL.WEIGHTS", str(tmp_path / "out" / "model_final.pth")]
    checked = [*weights, "TEST.CHECK_EXPECTED", "True", "TEST.EXPECTED_RESULTS"]
    results = run(*checked, "[['bbox','AP',0,100]]", flags=("--eval-only",))
    assert results["bbox"].keys() >= {"AP", "AP50", "AP75", "APs", "APm", "APl"}
    with pytest.raises(SystemExit):
        run(*checked, "[['bbox','AP',99,0.1]]", flags=("--eval-only",))
    run(*weights, "TEST.EXPECTED_RESULTS", "[['bbox','AP',99,0.1]]", flags=("--eval-only",))  # only where it is asked
    in_batches = run(*weights, "TEST.IMS_PER_BATCH", "3", flags=("--eval-only",))
    assert in_batches["bbox"]["AP"] == pytest.approx(results["bbox"]["AP"], abs=0.5, nan_ok=True)


def test_mixed_precision_trains_evaluates_and_resumes(run, tmp_path):
    bf16 = ["SOLVER.AMP.ENABLED", "True", "SOLVER.AMP.PRECISION", "bfloat16"]
    run(*bf16, "SOLVER.MAX_ITER", "2")
    run(*bf16, "SOLVER.MAX_ITER", "3", flags=("--resume",))
    last = merged(metrics(tmp_path / "out"))
    assert last["iteration"] == 3
    assert "bbox/AP" in last


def test_two_processes_on_a_cpu(start, tmp_path):
    process = start(flags=("--num-gpus", "2", "--dist-url", "auto"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    last = metrics(tmp_path / "out")[-1]
    assert last["iteration"] == 4
    assert "bbox/AP" in last
    results = json.loads((tmp_path / "out" / "inference" / "shapes_val" / "coco_instances_results.json").read_text())
    assert len({result["image_id"] for result in results}) == 8  # both processes' images


def test_an_error_in_two_processes_is_one_line(start):
    # Known only to the processes, when they build the model.
    process = start("MODEL.DETR.HIDDEN_DIM", "90", flags=("--num-gpus", "2", "--dist-url", "auto"))
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1, output
    assert re.match(r"train_net\.py: .*90 channels", output.splitlines()[-1]), output
    assert "Traceback" not in output


def test_panoptic_model_in_one_process_and_in_two(run, start, tmp_path):
    """Boxes, masks and panoptic quality in one run; two processes evaluate to the same figures."""
    out = tmp_path / "out"
    config = {"config": "panoptic_detr_R_18"}
    run("SOLVER.MAX_ITER", "2", **config)
    # Hardly trained, so the threshold is low. One image a batch: how two processes share images decides what pads what.
    evaluate = ["MODEL.WEIGHTS", str(out / "model_final.pth"), "TEST.IMS_PER_BATCH", "1"]
    evaluate += ["MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.05"]
    results = run(*evaluate, flags=("--eval-only",), **config)
    assert results["panoptic_seg"].keys() >= {"PQ", "SQ", "RQ", "PQ_th", "PQ_st"}
    assert results["bbox"].keys() >= {"AP", "AP50"}
    assert results["segm"].keys() >= {"AP", "AP50"}
    written = out / "inference" / "shapes_val" / "panoptic_predictions.json"
    alone = json.loads(written.read_text())["annotations"]
    assert len(alone) == 8
    written.unlink()

    process = start(*evaluate, flags=("--eval-only", "--num-gpus", "2", "--dist-url", "auto"), **config)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    assert json.loads(written.read_text())["annotations"] == alone


@pytest.mark.parametrize("kept", ["things", "stuff"])
def test_panoptic_data_without_stuff_or_without_things(run, tmp_path, shapes_root, kept):
    """Trains and evaluates what is there."""
    names = {}
    for split in ("train", "val"):
        names[split] = f"only_{kept}_{split}"
        register_part_of_shapes(names[split], f"shapes_{split}", kept, tmp_path)
    try:
        overrides = ["DATASETS.TRAIN", f"('{names['train']}',)", "DATASETS.TEST", f"('{names['val']}',)"]
        overrides += ["MODEL.DETR.NUM_CLASSES", "4", "MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.05"]
        run(*overrides, "SOLVER.MAX_ITER", "2", config="panoptic_detr_R_18")
        last = merged(metrics(tmp_path / "out"))
        assert math.isfinite(last["panoptic_seg/PQ"])
        assert math.isnan(last["panoptic_seg/PQ_st" if kept == "things" else "panoptic_seg/PQ_th"])
        assert ("bbox/AP" in last) == ("segm/AP" in last) == (kept == "things")
    finally:
        for name in names.values():
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def register_part_of_shapes(name: str, source: str, kept: str, folder: Path) -> None:
    """``source`` with its things alone or its stuff alone, as contiguous classes from 0; the rest becomes void."""
    metadata = MetadataCatalog.get(source).as_dict()
    things = metadata["thing_dataset_id_to_contiguous_id"]
    stuff = {i: c - len(things) for i, c in metadata["stuff_dataset_id_to_contiguous_id"].items() if i not in things}
    ids, first = (things, 0) if kept == "things" else (stuff, len(things))
    root = folder / name
    root.mkdir()
    panoptic = json.loads(Path(metadata["panoptic_json"]).read_text())
    panoptic["categories"] = [c for c in panoptic["categories"] if c["id"] in ids]
    for annotation in panoptic["annotations"]:
        annotation["segments_info"] = [s for s in annotation["segments_info"] if s["category_id"] in ids]
    (root / "panoptic.json").write_text(json.dumps(panoptic))

    def load() -> list[dict]:
        records = DatasetCatalog.get(source)
        for record in records:
            record["segments_info"] = [
                s | {"category_id": s["category_id"] - first}
                for s in record["segments_info"]
                if s["isthing"] == (kept == "things")
            ]
            png = Path(record["pan_seg_file_name"])
            rgb = np.asarray(Image.open(png))
            of_kept = np.isin(rgb.astype(np.int64) @ [1, 256, 65536], [s["id"] for s in record["segments_info"]])
            record["pan_seg_file_name"] = str(root / png.name)
            Image.fromarray(np.where(of_kept[..., None], rgb, 0).astype(np.uint8)).save(root / png.name)
        return records

    load()  # writes the PNGs
    DatasetCatalog.register(name, load)
    named = metadata["stuff_classes"][first : first + 4]
    MetadataCatalog.get(name).set(
        thing_classes=named if kept == "things" else [],
        stuff_classes=named,
        thing_dataset_id_to_contiguous_id=ids if kept == "things" else {},
        stuff_dataset_id_to_contiguous_id={} if kept == "things" else ids,
        panoptic_json=str(root / "panoptic.json"),
        panoptic_root=str(root),
        json_file=metadata["json_file"] if kept == "things" else None,
        image_root=metadata["image_root"],
        evaluator_type="coco_panoptic_seg",
    )


def test_the_mask_stage_needs_the_weights_of_a_box_stage(run, tmp_path):
    frozen = ["MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL", "True", "SOLVER.MAX_ITER", "1"]
    with pytest.raises(ValueError, match=r"(?s)would stay random: MODEL\.WEIGHTS is empty.*transformer"):
        run(*frozen, config="panoptic_detr_R_18")
    run("SOLVER.MAX_ITER", "1", "OUTPUT_DIR", str(tmp_path / "boxes"), config="panoptic_detr_R_18")
    boxes = tmp_path / "boxes" / "model_final.pth"
    run(*frozen, "MODEL.WEIGHTS", str(boxes), config="panoptic_detr_R_18")
    run(*frozen[:2], "SOLVER.MAX_ITER", "2", flags=("--resume",), config="panoptic_detr_R_18")
    before, after = (torch.load(path, weights_only=True)["model"] for path in (boxes, tmp_path / "out/model_final.pth"))
    changed = {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed == {"mask_head", "bbox_attention"}


def test_panoptic_fpn(run, tmp_path):
    """Detectron2's own model through the same tool: boxes, masks, stuff and panoptic quality."""
    run("SOLVER.MAX_ITER", "2", config="panoptic_fpn_R_18")
    last = merged(metrics(tmp_path / "out"))
    assert {"bbox/AP", "segm/AP", "sem_seg/mIoU", "panoptic_seg/PQ", "loss_sem_seg", "loss_mask"} <= last.keys()
    written = tmp_path / "out" / "inference" / "shapes_val_separated" / "panoptic_predictions.json"
    assert len(json.loads(written.read_text())["annotations"]) == 8


def test_panoptic_model_trains_in_two_processes(start, tmp_path):
    process = start(flags=("--num-gpus", "2", "--dist-url", "auto"), config="panoptic_detr_R_18")
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    last = merged(metrics(tmp_path / "out"))
    assert last["iteration"] == 4
    assert {"loss_mask", "loss_dice", "panoptic_seg/PQ", "segm/AP", "bbox/AP"} <= last.keys()


def test_a_killed_run_resumes_from_its_last_checkpoint(run, start, tmp_path):
    out = tmp_path / "out"
    process = start("SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "3")
    deadline = time.time() + 240
    while not (out / "model_0000008.pth").exists() and time.time() < deadline:
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    iteration = torch.load(out / (out / "last_checkpoint").read_text(), weights_only=True)["iteration"]
    assert iteration >= 5  # at most one period is lost
    run("SOLVER.MAX_ITER", str(iteration + 3), flags=("--resume",))
    last = merged(metrics(out))
    assert last["iteration"] == iteration + 3
    assert "total_loss" in last


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["MODEL.DETR.NUM_QUERIES", "5"], ValueError, "no config key MODEL.DETR.NUM_QUERIES"),
        (["MODEL.DETR.NUM_CLASSES", "7"], ValueError, "MODEL.DETR.NUM_CLASSES"),
        (["MODEL.DETR.NUM_OBJECT_QUERIES", "1"], ValueError, "raise MODEL.DETR.NUM_OBJECT_QUERIES"),
        (["DATASETS.TRAIN", "('coco_2017_trian',)"], ValueError, "coco_2017_train"),
        (["MODEL.WEIGHTS", "nowhere.pth"], FileNotFoundError, "nowhere.pth"),
        (["INPUT.DATASET_MAPPER", "DetrMapper"], ValueError, "DetrDatasetMapper"),
        (["MODEL.DETR.POSITION_EMBEDDING", "learned", "INPUT.MIN_SIZE_TRAIN", "(900,)"], ValueError, "50 entries"),
    ],
)
def test_bad_input_ends_in_one_clear_error(run, overrides, error, message):
    if "(900,)" in overrides:
        overrides = [*overrides, "INPUT.MAX_SIZE_TRAIN", "1200"]
    with pytest.raises(error, match=re.escape(message)):
        run(*overrides)


def test_a_budget_of_epochs_and_the_screen(run, shapes_root, tmp_path, capsys, monkeypatch):
    """24 images in batches of 4: two epochs are 12 iterations."""
    for logger in ("detectron2", "detr_d2", "fvcore"):
        monkeypatch.setattr(logging.getLogger(logger), "handlers", [])
    setup_logger.cache_clear()
    run("SOLVER.EPOCHS", "2", "SOLVER.IMS_PER_BATCH", "4", "SOLVER.CHECKPOINT_PERIOD", "4")
    setup_logger.cache_clear()
    screen, log = capsys.readouterr().out, (tmp_path / "out" / "log.txt").read_text()
    config = load_config(str(tmp_path / "out" / "config.yaml"))
    assert (config.SOLVER.MAX_ITER, config.SOLVER.EPOCHS, config.SOLVER.CHECKPOINT_PERIOD) == (12, 2, 12)
    assert "epoch: 2/2  iter: 11" in screen
    assert "Serializing" in log
    assert "Serializing" not in screen
    assert re.search(r"Model: \(\d+ lines, in log.txt\)", screen)
    assert "(class_embed): " in log
    assert len(screen.splitlines()) < 70 < len(log.splitlines())
    assert "\x1b" not in screen + log


def test_a_budget_of_minutes_and_its_resumption(run, words, train_net, tmp_path, monkeypatch):
    monkeypatch.setattr("detr_d2.engine.budget._seconds_of_a_step", lambda cfg: 15.0)
    run("SOLVER.MAX_MINUTES", "1", "DATASETS.TEST", "()")
    config = tmp_path / "out" / "config.yaml"
    assert load_config(str(config)).SOLVER.MAX_ITER == 4
    monkeypatch.setattr("detr_d2.engine.budget._seconds_of_a_step", lambda cfg: pytest.fail("timed again"))
    run("SOLVER.MAX_MINUTES", "2", "DATASETS.TEST", "()", flags=("--resume",))
    assert load_config(str(config)).SOLVER.MAX_ITER == 8
    assert torch.load(tmp_path / "out" / "model_final.pth", weights_only=True)["iteration"] == 7


def test_steps_are_timed_before_a_budget_of_minutes(words, train_net, tmp_path):
    cfg = load_config(words()[1], [*words("SOLVER.MAX_MINUTES", "2")[2:]])
    fitted = fit_minutes(cfg, resume=False)
    assert fitted.SOLVER.MAX_ITER > 4
    assert not (tmp_path / "out").exists()
    assert fit_minutes(load_config(words()[1], words()[2:]), resume=False).SOLVER.MAX_ITER == 4
