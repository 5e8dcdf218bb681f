"""Two processes on a CPU: the same loss and gradients as one process with all their images."""

import copy
import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances

from detr_d2.engine.trainer import wrap_ddp


def images() -> list[dict]:
    """Four images of one size, with 3, 0, 1 and 2 objects: the workers' own normalisers would differ."""
    generator = torch.Generator().manual_seed(0)
    result = []
    for count in (3, 0, 1, 2):
        corner = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 5 + torch.rand(count, 2, generator=generator) * 25], dim=1)
        classes = torch.randint(0, 80, (count,), generator=generator)
        image = torch.randint(0, 255, (3, 64, 64), generator=generator)
        instances = Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=classes)
        instances.gt_masks = BitMasks(torch.rand(count, 64, 64, generator=generator) > 0.5)
        result.append({"image": image, "instances": instances})
    return result


def losses_and_gradients(cfg, batch: list[dict]) -> tuple[dict, dict]:
    torch.manual_seed(0)
    model = wrap_ddp(build_model(cfg).train())
    losses = model(batch)
    sum(losses.values()).backward()
    bare = getattr(model, "module", model)
    gradients = {name: p.grad for name, p in bare.named_parameters() if p.grad is not None}
    return {name: value.detach() for name, value in losses.items()}, gradients


def worker(rank: int, cfg, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(losses_and_gradients(cfg, images()[2 * rank : 2 * rank + 2]), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.fixture(params=["DETR", "PanopticDETR", "PanopticDETR, frozen", "DINO"])
def no_dropout_cfg(request, small_detr_cfg, small_dino_cfg):
    if request.param == "DINO":
        # Without noise, which processes draw each for itself. GroupNorm leaves a gradient to more than one value alone.
        noise = ["MODEL.DINO.LABEL_NOISE", 0.0, "MODEL.DINO.BOX_NOISE", 0.0]
        size = ["MODEL.DETR.HIDDEN_DIM", 64, "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS", 3]
        return small_dino_cfg("4scale_12ep", *noise, *size)
    cfg = copy.deepcopy(small_detr_cfg)
    cfg.defrost()
    cfg.MODEL.DETR.DROPOUT = 0.0
    cfg.MODEL.META_ARCHITECTURE = request.param.split(",")[0]
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0, 1]
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = request.param.endswith("frozen")
    if cfg.MODEL.META_ARCHITECTURE == "PanopticDETR":
        cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    return cfg


def test_two_processes_equal_one(no_dropout_cfg, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, args=(no_dropout_cfg, port, str(tmp_path)), nprocs=2, start_method="forkserver")
    (losses_0, gradients_0), (losses_1, gradients_1) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    losses, gradients = losses_and_gradients(no_dropout_cfg, images())

    assert gradients.keys() == gradients_0.keys() == gradients_1.keys()
    for name in losses:
        torch.testing.assert_close((losses_0[name] + losses_1[name]) / 2, losses[name], rtol=1e-5, atol=1e-6)
    for name in gradients:
        torch.testing.assert_close(gradients_0[name], gradients_1[name], rtol=0, atol=0)
        scale = gradients[name].abs().max().item()
        torch.testing.assert_close(gradients_0[name], gradients[name], rtol=1e-3, atol=1e-4 * scale + 1e-8)
