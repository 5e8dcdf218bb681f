"""A stand-in for DETR with its key structure, narrow, and the same weights under the official names."""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem, BottleneckBlock, ResNet
from torch import Tensor, nn

BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


class MLP(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, 4)])


class LearnedPositions(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.row_embed = nn.Embedding(50, dim // 2)
        self.col_embed = nn.Embedding(50, dim // 2)


class FakeDetr(nn.Module):
    """DETR's modules under DETR's names; never run."""

    def __init__(
        self,
        depth: int = 50,
        *,
        width: int = 2,
        norm: str = "FrozenBN",
        dc5: bool = False,
        classes: int = 80,
        queries: int = 5,
        dim: int = 8,
        feed_forward: int = 16,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        pre_norm: bool = False,
        learned: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = narrow_resnet(depth, width, norm, dc5)
        self.transformer = nn.Module()
        encoder = nn.TransformerEncoderLayer(dim, 2, feed_forward)
        decoder = nn.TransformerDecoderLayer(dim, 2, feed_forward)
        self.transformer.encoder = nn.TransformerEncoder(
            encoder, encoder_layers, norm=nn.LayerNorm(dim) if pre_norm else None, enable_nested_tensor=False
        )
        self.transformer.decoder = nn.TransformerDecoder(decoder, decoder_layers, norm=nn.LayerNorm(dim))
        if learned:
            self.position_encoding = LearnedPositions(dim)
        self.input_proj = nn.Conv2d(self.backbone.output_shape()["res5"].channels, dim, 1)
        self.query_embed = nn.Embedding(queries, dim)
        self.class_embed = nn.Linear(dim, classes + 1)
        self.bbox_embed = MLP(dim)


def narrow_resnet(depth: int, width: int, norm: str, dc5: bool) -> ResNet:
    """Detectron2's ResNet with ``width`` channels where the published one has 64."""
    stages, channels = [], width
    for i, blocks in enumerate(BLOCKS[depth]):
        out = width * 2**i * (4 if depth >= 50 else 1)
        arguments = {"in_channels": channels, "out_channels": out, "norm": norm}
        arguments["stride_per_block"] = [1 if i == 0 or (dc5 and i == 3) else 2] + [1] * (blocks - 1)
        if depth >= 50:
            arguments["bottleneck_channels"] = width * 2**i
        stages.append(ResNet.make_stage(BottleneckBlock if depth >= 50 else BasicBlock, blocks, **arguments))
        channels = out
    return ResNet(BasicStem(3, width, norm), stages, out_features=["res4", "res5"])


def randomise(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give every tensor its own values."""
    generator = torch.Generator().manual_seed(seed)
    for value in module.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return module


def official_name(name: str) -> str:
    """Our name of a tensor -> the official one, written out by hand rather than asked from the code under test."""
    if name.startswith("position_encoding."):
        return name.replace("position_encoding", "backbone.1")
    if not name.startswith("backbone."):
        return name
    name = name.replace("backbone.", "backbone.0.body.").replace("stem.", "")
    for i in (1, 2, 3):
        name = name.replace(f"conv{i}.norm", f"bn{i}")
    for stage in (2, 3, 4, 5):
        name = name.replace(f"res{stage}.", f"layer{stage - 1}.")
    return name.replace("shortcut.norm", "downsample.1").replace("shortcut", "downsample.0")


def coco_rows(state: dict[str, Tensor], rows: int = 92) -> dict[str, Tensor]:
    """The state with a class head of ``rows`` rows, each with the values 1000 + its index."""
    result = dict(state)
    for key in ("class_embed.weight", "class_embed.bias"):
        shape = (rows, *state[key].shape[1:])
        index = torch.arange(rows, dtype=torch.float32).reshape(-1, *[1] * (len(shape) - 1))
        result[key] = (1000 + index).expand(shape).clone()
    return result


@pytest.fixture
def fake_detr() -> Callable[..., FakeDetr]:
    """``fake_detr(seed=..., **what differs)`` -> a `FakeDetr` whose every tensor has its own values."""

    def build(seed: int = 0, **arguments: object) -> FakeDetr:
        return randomise(FakeDetr(**arguments), seed)

    return build


@pytest.fixture
def official_state(fake_detr) -> Callable[..., dict[str, Tensor]]:
    """``official_state(**what differs)`` -> the state dict of an official checkpoint, with 92 class rows by default."""

    def build(seed: int = 1, rows: int | None = 92, **arguments: object) -> dict[str, Tensor]:
        state = dict(fake_detr(seed, **arguments).state_dict())
        state = state if rows is None else coco_rows(state, rows)
        return {official_name(key): value for key, value in state.items()}

    return build


@pytest.fixture
def zoo_pickle(tmp_path) -> Callable[..., str]:
    """``zoo_pickle(module or arrays)`` -> a file of Detectron2's ImageNet zoo, with the leftovers of the real ones."""

    def dump(source: nn.Module | dict[str, np.ndarray]) -> str:
        if isinstance(source, nn.Module):
            source = {key: value.numpy() for key, value in source.state_dict().items()}
        leftovers = {
            "stem.fc.weight": np.ones((3, 2), np.float32),
            "stem.fc.bias": np.ones(3, np.float32),
            "stem.conv1.norm.num_batches_tracked": np.array(0),
        }
        data = {"model": source | leftovers, "__author__": "torchvision", "matching_heuristics": True}
        path = tmp_path / "R.pkl"
        path.write_bytes(pickle.dumps(data, protocol=2))
        return str(path)

    return dump


@pytest.fixture
def rcnn() -> Callable[[], nn.Module]:
    """``rcnn()`` -> Detectron2's C4 Faster R-CNN with a narrow ResNet-50, whose res5 is in the ROI heads."""

    def build() -> nn.Module:
        cfg = get_cfg()
        cfg.MODEL.DEVICE = "cpu"
        cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 4
        cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
        cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 2
        return build_model(cfg)

    return build


@pytest.fixture
def saved(tmp_path) -> Callable[..., str]:
    """``saved(object, name)`` -> the path of a file that ``torch.save`` wrote."""

    def save(data: object, name: str = "weights.pth") -> str:
        path: Path = tmp_path / name
        torch.save(data, path)
        return str(path)

    return save


@pytest.fixture
def assert_untouched() -> Callable[[nn.Module, dict[str, Tensor]], None]:
    """``assert_untouched(model, state before)``."""

    def check(model: nn.Module, before: dict[str, Tensor]) -> None:
        after = model.state_dict()
        assert after.keys() == before.keys()
        assert all(torch.equal(after[key], before[key]) for key in before)

    return check


@pytest.fixture
def snapshot() -> Callable[[nn.Module], dict[str, Tensor]]:
    """``snapshot(model)`` -> a copy of its state dict."""
    return lambda model: {key: value.clone() for key, value in model.state_dict().items()}
