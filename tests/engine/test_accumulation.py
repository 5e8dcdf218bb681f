"""Small batches of one step, in one process and in two: the losses and gradients of one large batch, in fp64."""

import functools
import multiprocessing
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.multiprocessing
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils import comm
from detectron2.utils.events import EventStorage

from detr_d2.data.train_loader import small_batch
from detr_d2.engine import StepTrainer
from detr_d2.engine.launch import launch
from detr_d2.engine.trainer import wrap_ddp

COUNTS = (3, 0, 1, 2, 0, 0, 1, 0)  # objects: some small batches have none


def images(counts: tuple[int, ...]) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 20], dim=1)
        instances = Instances((96, 96), gt_boxes=Boxes(boxes))
        instances.gt_boxes.tensor = boxes.double()
        instances.gt_classes = torch.randint(0, 80, (count,), generator=generator)
        instances.gt_masks = BitMasks(torch.rand(count, 96, 96, generator=generator) > 0.5)
        result.append({"image": torch.randint(0, 255, (3, 96, 96), generator=generator), "instances": instances})
    return result


def step(cfg: CfgNode, parts: int, counts: tuple[int, ...]) -> tuple[dict, dict]:
    """What is logged, and the gradients, of one step on this process's share of the images."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.ACCUMULATE_STEPS = len(counts), parts
    size, rank, processes = small_batch(cfg) // comm.get_world_size(), comm.get_rank(), comm.get_world_size()
    batches = [images(counts)[i : i + size] for i in range(0, len(counts), size)][rank::processes]
    torch.manual_seed(0)
    # What is fp32 for the sake of mixed precision is fp64 here.
    with mock.patch.object(torch.Tensor, "float", torch.Tensor.double), EventStorage() as storage:
        model = build_model(cfg).train().double()
        trainer = StepTrainer(cfg, wrap_ddp(model), batches, torch.optim.SGD(model.parameters(), lr=0.0))
        trainer.run_step()
    losses = {name: value for name, (value, _) in storage.latest().items() if "loss" in name}
    return losses, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def process(cfg: CfgNode, parts: int, counts: tuple[int, ...], folder: Path) -> None:
    torch.set_num_threads(1)
    torch.save(step(cfg, parts, counts), folder / f"{comm.get_rank()}.pth")


def in_two_processes(cfg: CfgNode, parts: int, counts: tuple[int, ...], folder: Path) -> tuple[dict, dict]:
    def job() -> None:
        start = functools.partial(torch.multiprocessing.start_processes, start_method="fork")
        torch.multiprocessing.start_processes = start
        launch(process, 2, args=(cfg, parts, counts, folder))

    first = multiprocessing.get_context("fork").Process(target=job)
    first.start()
    first.join(120)
    first.kill()
    return torch.load(folder / "0.pth")


@pytest.fixture(params=["DETR", "PanopticDETR", "DeformableDETR", "FCOS centerness", "FCOS iou"])
def cfg(request, small_detr_cfg, small_deformable_cfg, small_fcos_cfg) -> CfgNode:
    name = request.param
    cfg = small_fcos_cfg if "FCOS" in name else small_deformable_cfg() if "Def" in name else small_detr_cfg
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.DROPOUT = cfg.MODEL.DEFORMABLE_DETR.DROPOUT = 0.0
    if "FCOS" in name:
        cfg.MODEL.FCOS.QUALITY = name.split()[1]
    if name == "PanopticDETR":
        cfg.MODEL.META_ARCHITECTURE = name
        cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0, 1]
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def assert_equal(one: tuple[dict, dict], other: tuple[dict, dict]) -> None:
    (losses, gradients), (other_losses, other_gradients) = one, other
    error = 1e-6 if "loss_fcos_loc" in losses else 1e-10  # FCOS's locations are fp32
    assert losses == pytest.approx(other_losses, rel=error)
    assert gradients.keys() == other_gradients.keys()
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        assert gradient.dtype == torch.float64
        torch.testing.assert_close(gradient, other_gradients[name], rtol=100 * error, atol=error * scale + 1e-14)


def test_four_small_batches_equal_a_large_one(cfg):
    assert_equal(step(cfg, 1, COUNTS), step(cfg, 4, COUNTS))


@pytest.mark.parametrize("cfg", ["DETR", "FCOS iou"], indirect=True)
@pytest.mark.parametrize("counts", [(0,) * 7 + (1,), (0,) * 8], ids=["one", "none"])
def test_with_hardly_any_object_too(cfg, counts):
    assert_equal(step(cfg, 1, counts), step(cfg, 4, counts))


@pytest.mark.parametrize("cfg", ["PanopticDETR", "FCOS centerness"], indirect=True)
def test_in_two_processes_too(cfg, tmp_path):
    assert_equal(step(cfg, 1, COUNTS), in_two_processes(cfg, 4, COUNTS, tmp_path))


@pytest.mark.parametrize(("parts", "message"), [(3, r"IMS_PER_BATCH is 8, .* in 3 parts .* of 3"), (0, "at least 1")])
def test_parts_divide_the_batch(small_detr_cfg, parts, message):
    with pytest.raises(ValueError, match=message):
        step(small_detr_cfg, parts, COUNTS)
