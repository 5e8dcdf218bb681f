"""FCOS in two processes on a CPU, one of them without any object: the loss and gradients of one process with all."""

import os
import socket

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances

from detr_d2.engine.trainer import wrap_ddp


def images(counts: tuple[int, ...]) -> list[dict]:
    generator = torch.Generator().manual_seed(0)
    result = []
    for count in counts:
        corner = torch.rand(count, 2, generator=generator) * 30
        boxes = torch.cat([corner, corner + 10 + torch.rand(count, 2, generator=generator) * 20], dim=1)
        classes = torch.randint(0, 80, (count,), generator=generator)
        image = torch.randint(0, 255, (3, 64, 64), generator=generator)
        result.append({"image": image, "instances": Instances((64, 64), gt_boxes=Boxes(boxes), gt_classes=classes)})
    return result


def losses_and_gradients(cfg: CfgNode, batch: list[dict]) -> tuple[dict, dict]:
    torch.manual_seed(0)
    model = wrap_ddp(build_model(cfg).train())
    losses = model(batch)
    sum(losses.values()).backward()
    bare = getattr(model, "module", model)
    gradients = {name: p.grad for name, p in bare.named_parameters() if p.requires_grad}
    return {name: value.detach() for name, value in losses.items()}, gradients


def worker(rank: int, cfg: CfgNode, counts: tuple[int, ...], port: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    dist.init_process_group("gloo", rank=rank, world_size=2)
    torch.save(losses_and_gradients(cfg, images(counts)[2 * rank : 2 * rank + 2]), f"{folder}/{rank}.pth")
    dist.destroy_process_group()


@pytest.mark.parametrize(
    ("counts", "quality"), [((3, 1, 0, 0), "centerness"), ((0, 2, 0, 0), "iou"), ((0,) * 4, "iou")]
)
def test_two_processes_equal_one(small_fcos_cfg, tmp_path, counts: tuple[int, ...], quality: str) -> None:
    cfg = small_fcos_cfg.clone()
    cfg.defrost()
    cfg.MODEL.FCOS.QUALITY = quality
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.start_processes(worker, args=(cfg, counts, port, str(tmp_path)), nprocs=2, start_method="forkserver")
    (losses_0, gradients_0), (losses_1, gradients_1) = (torch.load(tmp_path / f"{rank}.pth") for rank in (0, 1))
    losses, gradients = losses_and_gradients(cfg, images(counts))

    assert (losses["loss_fcos_loc"] > 0) == any(counts)
    assert gradients.keys() == gradients_0.keys() == gradients_1.keys()
    for name in losses:
        torch.testing.assert_close((losses_0[name] + losses_1[name]) / 2, losses[name], rtol=1e-4, atol=1e-6)
    for name in gradients:
        torch.testing.assert_close(gradients_0[name], gradients_1[name], rtol=0, atol=0)
        scale = gradients[name].abs().max().item()
        torch.testing.assert_close(gradients_0[name], gradients[name], rtol=1e-3, atol=1e-4 * scale + 1e-8)
