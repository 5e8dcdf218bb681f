"""``transformers``' DETR as a reference, fed with the official layout and read stage by stage.

Its backbone is exchanged for torchvision's ResNet, which is what the published models were trained with, and which has
DC5. Its ``auxiliary_loss=True`` feeds normed outputs back into the decoder, so the intermediate outputs are taken with
hooks.

Legend: B batch, N cells of the feature map, Q queries, C channels, K classes + 1, L decoder layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d
from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from detr_d2.checkpoint.layouts.detr import OFFICIAL
from detr_d2.checkpoint.layouts.huggingface import names_in_transformers

# Rows of an official class head that a model of the 80 contiguous COCO classes keeps, no-object last.
KEPT_CLASS_ROWS = [*sorted(c["id"] for c in COCO_CATEGORIES if c["isthing"]), 91]
LOSS_WEIGHTS = {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2}


@dataclass(frozen=True)
class Stages:
    """What a DETR computes between images and losses. Masks: True = padding."""

    feature: Tensor  # B x 2048 x H x W
    feature_mask: Tensor  # B x H x W
    position: Tensor  # B x C x H x W
    projected: Tensor  # B x C x H x W
    memory: Tensor  # B x N x C
    hidden: Tensor  # L x B x Q x C, normed
    logits: Tensor  # L x B x Q x K
    boxes: Tensor  # L x B x Q x 4


class TorchvisionBody(nn.Module):
    """torchvision's ResNet up to ``layer4``, frozen as published, in the interface of a transformers backbone."""

    def __init__(self, depth: int, dilation: bool) -> None:
        super().__init__()
        resnet = getattr(torchvision.models, f"resnet{depth}")(
            norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, dilation]
        )
        self.body = IntermediateLayerGetter(resnet, {"layer4": "0"})
        self.body["conv1"].requires_grad_(False)
        self.body["layer1"].requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return list(self.body(pixel_values).values())


def build_oracle(
    official: dict[str, Tensor], *, depth: int, dilation: bool, position: str = "sine"
) -> DetrForObjectDetection:
    """The reference of 80 classes with weights in the official layout; nothing missing, nothing left over."""
    config = DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8, 8, 8, 8], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        use_timm_backbone=False,
        position_embedding_type=position,
        num_labels=80,
        dropout=0.0,
        attn_implementation="eager",
    )
    model = DetrForObjectDetection(config)
    model.model.backbone.model = TorchvisionBody(depth, dilation)
    model.model.input_projection = nn.Conv2d(2048, 256, kernel_size=1)
    state_dict = {}
    for name, value in official.items():
        if name.startswith("class_embed."):
            value = value[KEPT_CLASS_ROWS]
        names = oracle_names(name)
        state_dict |= dict(zip(names, value.chunk(len(names)), strict=True))
    model.load_state_dict(state_dict, strict=True)
    return model


def oracle_names(official_name: str) -> list[str]:
    """The reference's parameters that one official parameter consists of, in order: three for stacked projections."""
    name = next(iter(OFFICIAL.to_ours({official_name: torch.empty(0)})))
    names = names_in_transformers(name, "detr", "timm")
    return [name.replace("model.backbone.model.", "model.backbone.model.body.") for name in names]


def oracle_gradients(model: DetrForObjectDetection, official_names: Sequence[str], loss: Tensor) -> dict[str, Tensor]:
    """Gradient of ``loss`` for every trainable parameter by official name. The graph is kept."""
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    gradients = dict(
        zip(parameters, torch.autograd.grad(loss, list(parameters.values()), retain_graph=True), strict=True)
    )
    by_official_name = {}
    for official_name in official_names:
        names = oracle_names(official_name)
        if names[0] in gradients:
            by_official_name[official_name] = torch.cat([gradients.pop(name) for name in names])
    assert not gradients, f"no official name maps to {sorted(gradients)}"
    return by_official_name


def run_oracle(model: DetrForObjectDetection, pixel_values: Tensor, pixel_mask: Tensor) -> Stages:
    """Forward through the reference, all stages recorded. ``pixel_mask`` is 1 where there is image."""
    seen: dict[str, list] = {}

    def record(name: str):
        return lambda module, args, output: seen.setdefault(name, []).append(output)

    inner = model.model
    modules = {
        "backbone": inner.backbone,
        "position": inner.position_embedding,
        "projected": inner.input_projection,
        "encoder": inner.encoder,
    }
    handles = [module.register_forward_hook(record(name)) for name, module in modules.items()]
    handles += [layer.register_forward_hook(record("decoder")) for layer in inner.decoder.layers]
    try:
        result = model(pixel_values=pixel_values, pixel_mask=pixel_mask)
    finally:
        for handle in handles:
            handle.remove()
    ((feature, valid),) = seen["backbone"][0]
    hidden = inner.decoder.layernorm(torch.stack(seen["decoder"]))
    logits = model.class_labels_classifier(hidden)
    torch.testing.assert_close(logits[-1], result.logits)
    return Stages(
        feature=feature,
        feature_mask=~valid,
        position=seen["position"][0],
        projected=seen["projected"][0],
        memory=seen["encoder"][0].last_hidden_state,
        hidden=hidden,
        logits=logits,
        boxes=model.bbox_predictor(hidden).sigmoid(),
    )


def oracle_losses(stages: Stages, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Weighted losses by official name (``loss_ce``, ``loss_ce_0``, ...) and the last layer's ``cardinality_error``."""
    criterion = ImageLoss(
        matcher=HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2),
        num_classes=80,
        eos_coef=0.1,
        losses=["labels", "boxes", "cardinality"],
    ).to(stages.logits.dtype)
    layers = [{"logits": a, "pred_boxes": b} for a, b in zip(stages.logits, stages.boxes, strict=True)]
    losses = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)
    weighted = {
        name: LOSS_WEIGHTS[kind] * value
        for name, value in losses.items()
        for kind in LOSS_WEIGHTS
        if name.startswith(kind)
    }
    return weighted | {"cardinality_error": losses["cardinality_error"]}
