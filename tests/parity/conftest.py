"""Our model and the reference with the same random weights, and what both compute from the same images."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from torch import Tensor
from transformers import DetrForObjectDetection, DetrImageProcessor

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import load_config
from detr_d2.modeling import DETR

from .official_weights import official_state_dict, random_image
from .oracle import Stages, build_oracle, run_oracle


@dataclass(frozen=True)
class Case:
    """One published architecture."""

    name: str
    config: str
    depth: int = 50
    dilation: bool = False
    position: str = "sine"


CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "COCO-Detection"
CASES = [
    Case("R50", "detr_R_50_500ep.yaml"),
    Case("R50-DC5", "detr_R_50_DC5.yaml", dilation=True),
    Case("R101", "detr_R_101.yaml", depth=101),
    Case("R50-learned", "detr_R_50_500ep.yaml", position="learned"),
]
# Heights and widths. In the batch of two, the mask resized by nearest has more valid cells than ceil(size / stride).
IMAGE_SIZES = {"one": [(97, 130)], "two": [(103, 109), (59, 163)]}


@dataclass(frozen=True)
class Pair:
    """The two models, dropout off, and the official names and values of the weights that both hold."""

    case: Case
    ours: DETR
    oracle: DetrForObjectDetection
    official: dict[str, Tensor]


@dataclass(frozen=True)
class Batch:
    """Images for both models."""

    inputs: list[dict]
    pixel_values: Tensor
    pixel_mask: Tensor  # 1 = image

    @property
    def sizes(self) -> list[tuple[int, int]]:
        return [tuple(x["image"].shape[-2:]) for x in self.inputs]


@dataclass(frozen=True)
class Run:
    """What both models of one case compute from one batch, without gradients."""

    pair: Pair
    batch: Batch
    ours: Stages
    reference: Stages


RUNS = [*itertools.product(CASES[:3], IMAGE_SIZES), (CASES[3], "two")]


@pytest.fixture(scope="session", params=RUNS, ids=lambda param: f"{param[0].name}-{param[1]}")
def run(request: pytest.FixtureRequest) -> Run:
    """Both models' stages of one case for one batch."""
    case, sizes = request.param
    pair, batch = build_pair(case), make_batch(IMAGE_SIZES[sizes])
    with torch.no_grad():
        ours, reference = run_ours(pair.ours, batch), run_oracle(pair.oracle, batch.pixel_values, batch.pixel_mask)
    return Run(pair, batch, ours, reference)


@lru_cache(maxsize=1)
def build_pair(case: Case) -> Pair:
    """Both models of one architecture."""
    official = official_state_dict(case.depth, learned_positions=case.position == "learned")
    ours = build_ours(case, official)
    oracle = build_oracle(official, depth=case.depth, dilation=case.dilation, position=case.position)
    return Pair(case, ours.train(), oracle.train(), official)


def build_ours(case: Case, official: dict[str, Tensor]) -> DETR:
    """Our model, loaded from a checkpoint file in the official layout."""
    cfg = load_config(
        str(CONFIGS / case.config),
        ["MODEL.DEVICE", "cpu", "MODEL.DETR.DROPOUT", "0.0", "MODEL.DETR.POSITION_EMBEDDING", case.position],
    )
    model = build_model(cfg)
    with TemporaryDirectory() as folder:
        torch.save({"model": official}, f"{folder}/detr.pth")
        DetrCheckpointer(model).load(f"{folder}/detr.pth")
    return model


def make_batch(sizes: list[tuple[int, int]], seed: int = 0) -> Batch:
    """Random images, for the reference normalised and padded by its own image processor."""
    generator = torch.Generator().manual_seed(seed)
    images = [random_image(size, generator).to(torch.uint8) for size in sizes]
    encoded = DetrImageProcessor(do_resize=False)(images, return_tensors="pt")
    # Results at another size than the model's input, and of another aspect ratio.
    inputs = [{"image": image, "height": 2 * image.shape[1] + 3, "width": 3 * image.shape[2]} for image in images]
    return Batch(inputs, encoded["pixel_values"], encoded["pixel_mask"])


def with_targets(batch: Batch, targets: list[dict[str, Tensor]]) -> list[dict]:
    """The batch's inputs with ``targets`` (``class_labels``; relative cx, cy, w, h ``boxes``) as ground truth."""
    inputs = []
    for item, target, (height, width) in zip(batch.inputs, targets, batch.sizes, strict=True):
        cx, cy, w, h = target["boxes"].unbind(-1)
        corners = [(cx - w / 2) * width, (cy - h / 2) * height, (cx + w / 2) * width, (cy + h / 2) * height]
        instances = Instances((height, width))
        instances.gt_boxes = Boxes(torch.stack(corners, dim=-1))
        instances.gt_classes = target["class_labels"]
        inputs.append(item | {"instances": instances})
    return inputs


def run_ours(model: DETR, batch: Batch) -> Stages:
    """Forward through the whole model in training mode, without objects, all stages recorded."""
    seen = {}

    def record(name: str):
        return lambda module, args, output: seen.__setitem__(name, (args, output))

    names = ["backbone", "position_encoding", "input_proj", "transformer", "criterion"]
    handles = [getattr(model, name).register_forward_hook(record(name)) for name in names]
    no_objects = [{"class_labels": torch.zeros(0, dtype=torch.int64), "boxes": torch.zeros(0, 4)}] * len(batch.inputs)
    try:
        model(with_targets(batch, no_objects))
    finally:
        for handle in handles:
            handle.remove()
    ((mask,), position), transformed = seen["position_encoding"], seen["transformer"][1]
    outputs = seen["criterion"][0][0]
    return Stages(
        feature=seen["backbone"][1]["res5"],
        feature_mask=mask,
        position=position,
        projected=seen["input_proj"][1],
        memory=transformed[1],
        hidden=transformed[0],
        logits=outputs.logits,
        boxes=outputs.boxes,
    )
