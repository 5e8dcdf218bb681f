"""Our model and the reference with the same random weights, and what both compute from the same images."""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor
from transformers import DeformableDetrForObjectDetection

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import load_config
from detr_d2.modeling import DeformableDETR
from detr_d2.modeling.meta_arch.deformable_detr import DeformableDetection

from ..conftest import Batch, make_batch
from .oracle import Stages, build_oracle, run_oracle
from .weights import (
    DECODER_LAYERS,
    ENCODER_LAYERS,
    FEED_FORWARD,
    NARROW,
    QUERIES,
    VARIANTS,
    C,
    Variant,
    official_state_dict,
)

CONFIGS = Path(__file__).resolve().parents[3] / "configs" / "COCO-Detection"
SMALL = {
    "MODEL.DEVICE": "cpu",
    "MODEL.RESNETS.WIDTH_PER_GROUP": NARROW["width_per_group"],
    "MODEL.DETR.HIDDEN_DIM": C,
    "MODEL.DETR.DIM_FEEDFORWARD": FEED_FORWARD,
    "MODEL.DETR.ENC_LAYERS": ENCODER_LAYERS,
    "MODEL.DETR.DEC_LAYERS": DECODER_LAYERS,
    "MODEL.DETR.NUM_OBJECT_QUERIES": QUERIES,
    "MODEL.DETR.DROPOUT": 0.0,
}
# Heights and widths. In the batch of two, masks resized by nearest have more valid cells than ceil(size / stride).
IMAGE_SIZES = {"one": [(97, 130)], "two": [(103, 109), (59, 163)]}


@dataclass(frozen=True)
class Pair:
    """The two models, dropout off, and the official names and values of the weights that both hold."""

    variant: Variant
    ours: DeformableDETR
    oracle: DeformableDetrForObjectDetection
    official: dict[str, Tensor]


@dataclass(frozen=True)
class Run:
    """What both models of one variant compute from one batch, without gradients."""

    pair: Pair
    batch: Batch
    ours: Stages
    reference: Stages


@pytest.fixture(
    scope="session", params=itertools.product(VARIANTS, IMAGE_SIZES), ids=lambda param: f"{param[0].name}-{param[1]}"
)
def deformable_run(request: pytest.FixtureRequest) -> Run:
    """Both models' stages of one variant for one batch."""
    variant, sizes = request.param
    pair, batch = build_pair(variant), make_batch(IMAGE_SIZES[sizes])
    with torch.no_grad():
        ours, reference = run_ours(pair.ours, batch), run_oracle(pair.oracle, batch.pixel_values, batch.pixel_mask)
    return Run(pair, batch, ours, reference)


@lru_cache(maxsize=1)
def build_pair(variant: Variant) -> Pair:
    """Both models of one variant, in training mode: in evaluation ours keeps the padding out of norms."""
    official = official_state_dict(variant)
    return Pair(variant, build_ours(variant, official).train(), build_oracle(official, variant).train(), official)


def build_ours(variant: Variant, official: dict[str, Tensor]) -> DeformableDETR:
    """Our model, loaded from a checkpoint file in the official layout."""
    overrides = [str(word) for pair in SMALL.items() for word in pair]
    model = build_model(load_config(str(CONFIGS / variant.config), overrides))
    with TemporaryDirectory() as folder:
        torch.save({"model": official}, f"{folder}/deformable.pth")
        DetrCheckpointer(model).load(f"{folder}/deformable.pth")
    return model


def run_ours(model: DeformableDETR, batch: Batch) -> Stages:
    """Forward through the whole model, all stages recorded."""
    encoder: list[Tensor] = []
    handles = [
        layer.register_forward_hook(lambda module, args, output: encoder.append(output))
        for layer in model.transformer.encoder.layers
    ]
    try:
        detection = model.detect(model.preprocess(batch.inputs))
    finally:
        for handle in handles:
            handle.remove()
    return stages_of(detection, encoder)


def stages_of(detection: DeformableDetection, encoder: list[Tensor]) -> Stages:
    hidden, outputs = detection.hidden, detection.predictions
    proposals = hidden.proposals
    return Stages(
        encoder=encoder,
        hidden=hidden.hidden_states,
        references=hidden.references,
        logits=outputs.logits,
        boxes=outputs.boxes,
        proposal_logits=None if proposals is None else proposals.logits,
        proposal_boxes=None if proposals is None else proposals.boxes,
    )
