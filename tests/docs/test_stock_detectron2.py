"""Every piece of code of docs/stock_detectron2.md, on a few small Shapes images."""

import re

import numpy as np
import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.engine import launch
from detectron2.modeling import build_model
from detectron2.utils.env import seed_all_rng

from detr_d2.config import add_detr_d2_config
from detr_d2.engine import Trainer, load_config

SMALL = [
    *["MODEL.DEVICE", "cpu", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2", "SOLVER.WARMUP_ITERS", "0"],
    *["INPUT.MIN_SIZE_TRAIN", "(48,)", "INPUT.MIN_SIZE_TEST", "48"],
]


@pytest.fixture
def page(repo, monkeypatch) -> dict[str, object]:
    """What the page's code defines, run as one file."""
    monkeypatch.chdir(repo)
    pieces = re.findall(r"(?ms)^```python\n(.*?)^```$", (repo / "docs" / "stock_detectron2.md").read_text())
    assert len(pieces) == 3
    namespace: dict[str, object] = {}
    for code in pieces:
        exec(compile(code, "stock_detectron2.md", "exec"), namespace)
    return namespace


@pytest.fixture
def cfg(repo, shapes_root, tmp_path) -> CfgNode:
    (tmp_path / "out").mkdir()
    path = str(repo / "configs" / "Shapes" / "detr_R_18.yaml")
    return load_config(path, [*SMALL, "OUTPUT_DIR", str(tmp_path / "out")])


@pytest.fixture
def trained(cfg, tmp_path) -> CfgNode:
    """The cfg with weights to evaluate."""
    torch.manual_seed(0)
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "weights.pth")
    cfg.MODEL.WEIGHTS = str(tmp_path / "weights.pth")
    return cfg


def test_evaluate_and_predict(page, trained):
    results = page["evaluate"](trained)
    assert results["bbox"] == pytest.approx(Trainer.test(trained, loaded(trained))["bbox"], nan_ok=True)
    image = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    instances = page["predict"](trained, image)
    assert instances.image_size == (60, 80)
    assert len(instances) == 16
    assert page["cfg"].MODEL.META_ARCHITECTURE == "DETR"


def loaded(cfg: CfgNode) -> torch.nn.Module:
    model = build_model(cfg)
    model.load_state_dict(torch.load(cfg.MODEL.WEIGHTS, weights_only=True)["model"])
    return model


def test_the_cfg_needs_no_load_config(page, cfg, repo):
    plain = get_cfg()
    add_detr_d2_config(plain)
    plain.merge_from_file(str(repo / "configs" / "Shapes" / "detr_R_18.yaml"))
    plain.merge_from_list([*SMALL, "OUTPUT_DIR", cfg.OUTPUT_DIR])
    assert len(page["train"](plain)) == 2


def run(trainer_class, cfg: CfgNode) -> None:
    trainer = trainer_class(cfg)
    trainer.resume_or_load(resume=False)
    trainer.train()


def test_a_trainer_with_five_lines_trains_as_ours_does(page, trained, tmp_path):
    """Its optimizer and clipping, its mapper, its evaluators and its checkpointer are those of `Trainer`."""
    trained.TEST.EVAL_PERIOD = 2
    weights = []
    for name, trainer_class in (("own", page["MyTrainer"]), ("ours", Trainer)):
        trained.OUTPUT_DIR = str(tmp_path / name)
        (tmp_path / name).mkdir()
        seed_all_rng(3)
        launch(run, 1, args=(trainer_class, trained))
        weights.append(torch.load(tmp_path / name / "model_final.pth", weights_only=False)["model"])
        assert "bbox/AP50" in (tmp_path / name / "metrics.json").read_text()
    own, ours = weights
    assert own.keys() == ours.keys()
    for name, value in ours.items():
        torch.testing.assert_close(torch.as_tensor(own[name]), torch.as_tensor(value), rtol=0, atol=0)


def test_the_five_lines_stop_at_weights_that_do_not_fit(page, trained):
    trained.MODEL.DETR.HIDDEN_DIM = 64
    with pytest.raises(ValueError, match="HIDDEN_DIM"):
        run(page["MyTrainer"], trained)


def test_a_loop_trains_and_resumes(page, trained, tmp_path):
    trained.SOLVER.CHECKPOINT_PERIOD = 1
    assert len(page["train"](trained)) == 2
    trained.SOLVER.MAX_ITER = 3
    assert len(page["train"](trained)) == 1
    assert (tmp_path / "out" / "last_checkpoint").read_text() == "model_final.pth"
