"""An evaluation that stops in the middle goes on there, to the results of one that did not stop."""

import json
from pathlib import Path

import pytest
import torch

from detr_d2.engine import Trainer, load_config, resumable

SMALL = ["MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0", "INPUT.MIN_SIZE_TEST", "48", "TEST.IMS_PER_BATCH", "1"]
LOW = {
    "detr_R_18": [],
    "mask_rcnn_R_18": ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"],
    "panoptic_detr_R_18": ["MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.0"],
    "panoptic_fpn_R_18": ["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.0"],
}


@pytest.fixture
def evaluation(repo, shapes_root, tmp_path, monkeypatch):
    """``evaluation(name, *words)`` -> a function that evaluates a model and returns results, images predicted, and
    files written; with ``stop`` it is stopped before so many images, as by a kill."""
    monkeypatch.setattr(resumable, "PERIOD", 0)

    def evaluation(name: str, *words: str):
        config = str(repo / "configs" / "Shapes" / f"{name}.yaml")
        cfg = load_config(config, [*SMALL, *LOW[name], "OUTPUT_DIR", str(tmp_path), *words])
        torch.manual_seed(0)
        model, seen, limit = Trainer.build_model(cfg).eval(), [], []

        def count(module, inputs):
            if limit and len(seen) == limit[0]:
                raise KeyboardInterrupt
            seen.extend(item["image_id"] for item in inputs[0])

        model.register_forward_pre_hook(count)

        def run(stop: int | None = None):
            limit[:], seen[:] = [stop] if stop is not None else [], []
            if stop is not None:
                with pytest.raises(KeyboardInterrupt):
                    Trainer.test(cfg, model, resumable=True)
                return None, len(seen), None
            results = Trainer.test(cfg, model, resumable=True)
            files = {path.relative_to(tmp_path): path.read_bytes() for path in inference(tmp_path).rglob("*.*")}
            return results, len(seen), files

        run.model = model
        return run

    return evaluation


def inference(folder: Path) -> Path:
    return folder / "inference" / "shapes_val"


def kept(folder: Path) -> list[Path]:
    return sorted((inference(folder) / "unfinished").glob("*"))


@pytest.mark.parametrize("name", LOW)
def test_a_stopped_evaluation_goes_on_to_the_same_results(evaluation, tmp_path, name):
    run = evaluation(name)
    whole, count, files = run()
    assert count == 8
    assert not kept(tmp_path)
    run(stop=3)
    run(stop=2)  # after three more: five are done
    results, count, written = run()
    assert count == 3
    assert repr(results) == repr(whole)  # also where figures are NaN
    assert written == files
    assert not kept(tmp_path)


def test_what_is_half_written_is_evaluated_again(evaluation, tmp_path, caplog):
    run = evaluation("detr_R_18")
    whole, _, files = run()
    run(stop=4)
    (file,) = kept(tmp_path)
    lines = file.read_bytes().splitlines(keepends=True)
    assert len(lines) == 4
    file.write_bytes(b"".join(lines)[:-9])
    results, count, written = run()
    assert (count, written) == (5, files)
    assert repr(results) == repr(whole)
    assert "evaluated again" in caplog.text


@pytest.mark.parametrize("change", ["weights", "settings", "dataset", "names"])
def test_what_another_evaluation_left_is_not_used(evaluation, tmp_path, caplog, shapes_root, change):
    run = evaluation("detr_R_18")
    run(stop=4)
    if change == "weights":
        next(run.model.parameters()).data[0, 0, 0, 0] += 1
    if change == "settings":
        run = evaluation("detr_R_18", "INPUT.MIN_SIZE_TEST", "64")
    if change == "dataset":
        next(shapes_root.rglob("*val*.json")).touch()
    if change == "names":  # of a file that is not of this job
        (file,) = kept(tmp_path)
        file.rename(file.with_name("0-stranger.jsonl"))
    assert run()[1] == 8
    assert "it is not used" in caplog.text
    assert not kept(tmp_path)


@pytest.mark.parametrize(
    "line",
    [b"cos\nsystem\n", b"[]\n", b"\0" * 40 + b"\n", b"[" * 100_000 + b"\n", b'{"done": 3, "parts": [{}]}\n'],
)
def test_a_strangers_line_is_not_used(evaluation, tmp_path, line):
    run = evaluation("detr_R_18")
    run(stop=1)
    (file,) = kept(tmp_path)
    file.write_bytes(line)
    assert run()[1] == 8


def test_a_kept_picture_stays_in_its_folder(evaluation, tmp_path):
    run = evaluation("panoptic_detr_R_18")
    run(stop=2)
    (file,) = kept(tmp_path)
    content = [json.loads(line) for line in file.read_text().splitlines()]
    content[0]["parts"][-1]["predictions"][0]["file_name"] = "../../../out.png"
    file.write_text("".join(json.dumps(line) + "\n" for line in content))
    assert run()[1] == 8
    assert not list(tmp_path.parent.rglob("out.png"))
