"""Activations that are computed again: the same losses, gradients and statistics in less memory."""

import copy

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from detr_d2.engine.recompute import recompute_activations


class Kept(TorchDispatchMode):
    """Counts the bytes of what was computed within it and is still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for value in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(value, torch.Tensor):
                storage = value.untyped_storage()
                self.storages[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        return result

    @property
    def bytes(self) -> int:
        return sum(size for ref, size in self.storages.values() if not ref.expired())


def batch(size: int) -> list[dict]:
    instances = Instances((size, size), gt_boxes=Boxes([[4.0, 6.0, 40.0, 50.0]]), gt_classes=torch.tensor([3]))
    image = torch.randint(0, 255, (3, size, size), generator=torch.Generator().manual_seed(0))
    return [{"image": image, "instances": instances}]


def step(cfg: CfgNode, parts: str, size: int = 192) -> tuple[dict, dict, dict, int]:
    """Losses, gradients, buffers, and the bytes that are kept for the backward pass."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.CHECKPOINT_ACTIVATIONS = parts
    torch.manual_seed(0)
    model = build_model(cfg).train()
    recompute_activations(cfg, model)
    model = copy.deepcopy(model)  # as one that is averaged may be
    with Kept() as kept:
        losses = model(batch(size))
        count = kept.bytes
    sum(losses.values()).backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return losses, gradients, {name: b.clone() for name, b in model.named_buffers()}, count


@pytest.fixture(params=["DETR", "DETR with BatchNorm", "DeformableDETR"])
def cfg(request, small_detr_cfg, small_deformable_cfg) -> CfgNode:
    cfg = (small_deformable_cfg() if "Def" in request.param else small_detr_cfg).clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.DETR.DROPOUT = 0.1  # drawn twice alike
    if "Batch" in request.param:
        cfg.MODEL.RESNETS.NORM = "BN"
    return cfg


def test_the_same_gradients_in_less_memory(cfg):
    losses, gradients, buffers, kept = step(cfg, "")
    bytes_of = {}
    for parts in ("backbone", "encoder", "backbone,encoder"):
        again = step(cfg, parts)
        torch.testing.assert_close(again[0], losses, rtol=0, atol=0)
        torch.testing.assert_close(again[1], gradients, rtol=1e-5, atol=1e-7)
        torch.testing.assert_close(again[2], buffers, rtol=0, atol=0)
        bytes_of[parts] = again[3]
    assert bytes_of["backbone,encoder"] < min(bytes_of["backbone"], bytes_of["encoder"])
    assert max(bytes_of.values()) < kept
    assert bytes_of["backbone"] < 0.8 * kept


def test_detectron2s_own_backbones_too(small_fcos_cfg):
    losses, gradients, _, kept = step(small_fcos_cfg, "")
    again = step(small_fcos_cfg, "backbone")
    torch.testing.assert_close(again[:2], (losses, gradients), rtol=1e-5, atol=1e-7)
    assert again[3] < kept


@pytest.mark.parametrize(("parts", "message"), [("decoder", "may name backbone, encoder"), ("encoder", "FCOS has no")])
def test_other_parts_are_refused_by_name(small_fcos_cfg, parts, message):
    with pytest.raises(ValueError, match=f"MODEL.CHECKPOINT_ACTIVATIONS names '{parts}'.* {message}"):
        step(small_fcos_cfg, parts)
