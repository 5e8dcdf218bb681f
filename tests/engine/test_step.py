"""Mixed precision: bf16 on a CPU here, fp16 with loss scaling where there is a GPU."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from detr_d2.engine import StepTrainer, autocast
from detr_d2.solver import build_optimizer


def batch(device: str = "cpu") -> list[dict]:
    instances = Instances((64, 80), gt_boxes=Boxes([[4.0, 6.0, 40.0, 50.0]]), gt_classes=torch.tensor([3]))
    return [{"image": torch.randint(0, 255, (3, 64, 80)), "instances": instances}]


def amp_cfg(cfg, precision: str, device: str = "cpu"):
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.AMP.ENABLED = True
    cfg.SOLVER.AMP.PRECISION = precision
    cfg.MODEL.DEVICE = device
    return cfg


def train(cfg, steps: int = 2):
    model = build_model(cfg)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    trainer = StepTrainer(cfg, model, [batch()] * steps, build_optimizer(cfg, model))
    with EventStorage() as storage:
        for _ in range(steps):
            trainer.run_step()
            storage.step()
    return trainer, before, storage


def test_bf16_trains_on_a_cpu(small_detr_cfg):
    trainer, before, storage = train(amp_cfg(small_detr_cfg, "bfloat16"))
    assert torch.isfinite(torch.tensor(storage.history("total_loss").latest()))
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in trainer.model.named_parameters() if p.requires_grad}
    assert all(p.dtype == torch.float32 for p in trainer.model.parameters())


def test_autocast_lowers_the_precision(small_detr_cfg):
    with autocast(amp_cfg(small_detr_cfg, "bfloat16")):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16
    with autocast(small_detr_cfg):
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


def test_bf16_detections_are_those_of_fp32(small_detr_cfg):
    torch.manual_seed(0)  # weights of any other test's state may amplify rounding
    model = build_model(small_detr_cfg).eval()
    with torch.no_grad():
        expected = model(batch())[0]["instances"]
        with autocast(amp_cfg(small_detr_cfg, "bfloat16")):
            actual = model(batch())[0]["instances"]
    torch.testing.assert_close(actual.pred_boxes.tensor, expected.pred_boxes.tensor, atol=2.0, rtol=0)
    assert actual.scores.dtype == torch.float32


def test_state_survives_a_resume(small_detr_cfg):
    cfg = amp_cfg(small_detr_cfg, "bfloat16")
    trainer, _, _ = train(cfg)
    state = trainer.state_dict()
    other = StepTrainer(cfg, trainer.model, [], build_optimizer(cfg, trainer.model))
    other.load_state_dict(state)
    assert other.state_dict()["grad_scaler"] == state["grad_scaler"]


def test_fp16_on_a_cpu_is_refused(small_detr_cfg):
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.PRECISION.*bfloat16"):
        autocast(amp_cfg(small_detr_cfg, "float16"))


def test_unknown_precision(small_detr_cfg):
    with pytest.raises(ValueError, match=r"SOLVER\.AMP\.PRECISION is 'fp8'"):
        autocast(amp_cfg(small_detr_cfg, "fp8"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 training needs a GPU")
@pytest.mark.parametrize("precision", ["float16", "bfloat16"])
def test_trains_on_a_gpu(small_detr_cfg, precision):
    trainer, before, storage = train(amp_cfg(small_detr_cfg, precision, "cuda"), steps=4)
    assert torch.isfinite(torch.tensor(storage.history("total_loss").latest()))
    changed = {name for name, p in trainer.model.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {name for name, p in trainer.model.named_parameters() if p.requires_grad}


def test_what_the_model_logs_is_written_after_the_step(small_detr_cfg):
    storage = train(small_detr_cfg, steps=1)[2]
    assert {"class_error", "cardinality_error", "total_loss", "loss_ce", "data_time"} <= set(storage.latest())
    losses = [value for name, (value, _) in storage.latest().items() if name.startswith("loss_")]
    assert storage.history("total_loss").latest() == pytest.approx(sum(losses), rel=1e-6)
    assert "put_scalar" not in vars(storage)


def test_a_loss_that_is_not_finite_ends_the_training(small_detr_cfg):
    model = build_model(small_detr_cfg)
    model.criterion.weights["loss_ce"] = float("nan")
    trainer = StepTrainer(small_detr_cfg, model, [batch()], build_optimizer(small_detr_cfg, model))
    with EventStorage(5), pytest.raises(FloatingPointError, match="infinite or NaN at iteration 5"):
        trainer.run_step()
