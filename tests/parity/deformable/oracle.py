"""``transformers``' Deformable DETR as a reference, fed with the official layout and read stage by stage.

Its backbone is exchanged for torchvision's ResNet, which the published models were trained with and which has DC5.
It has no loss of the encoder's proposals, and with refinement it ties what the official models train apart.

Legend: B batch, N cells of all levels, Q queries, C channels, K classes, L layers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torchvision
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d
from transformers import DeformableDetrConfig, DeformableDetrForObjectDetection, ResNetConfig
from transformers.loss.loss_deformable_detr import DeformableDetrHungarianMatcher, DeformableDetrImageLoss

from detr_d2.checkpoint.layouts.deformable import DEFORMABLE
from detr_d2.checkpoint.layouts.huggingface import names_in_transformers

from .weights import DECODER_LAYERS, ENCODER_LAYERS, FEED_FORWARD, HEADS, NARROW, POINTS, QUERIES, C, Variant

KEPT_CLASS_ROWS = sorted(c["id"] for c in COCO_CATEGORIES if c["isthing"])
LOSS_WEIGHTS = {"loss_ce": 2, "loss_bbox": 5, "loss_giou": 2}


@dataclass(frozen=True)
class Stages:
    """What a Deformable DETR computes between images and losses."""

    encoder: list[Tensor]  # B x N x C of each layer
    hidden: Tensor  # L x B x Q x C
    references: list[Tensor]  # B x Q x 2 or 4 of each decoder layer
    logits: Tensor  # L x B x Q x K
    boxes: Tensor  # L x B x Q x 4
    proposal_logits: Tensor | None  # B x N x K
    proposal_boxes: Tensor | None  # B x N x 4


class Body(nn.Module):
    """torchvision's narrow ResNet-50, frozen as published, in the interface of a transformers backbone."""

    def __init__(self, variant: Variant) -> None:
        super().__init__()
        resnet = torchvision.models.resnet50(
            norm_layer=FrozenBatchNorm2d, replace_stride_with_dilation=[False, False, variant.dilation], **NARROW
        )
        layers = (2, 3, 4) if variant.levels > 1 else (4,)
        self.body = IntermediateLayerGetter(resnet, {f"layer{i}": str(i) for i in layers})
        self.body["conv1"].requires_grad_(False)
        self.body["layer1"].requires_grad_(False)

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return list(self.body(pixel_values).values())


def build_oracle(official: dict[str, Tensor], variant: Variant) -> DeformableDetrForObjectDetection:
    """The reference of 80 classes with weights in the official layout; nothing missing, nothing left over."""
    stages = ["stage2", "stage3", "stage4"] if variant.levels > 1 else ["stage4"]
    config = DeformableDetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[8] * 4, depths=[1] * 4, layer_type="basic", out_features=stages
        ),
        use_timm_backbone=False,
        d_model=C,
        encoder_layers=ENCODER_LAYERS,
        decoder_layers=DECODER_LAYERS,
        encoder_attention_heads=HEADS,
        decoder_attention_heads=HEADS,
        encoder_ffn_dim=FEED_FORWARD,
        decoder_ffn_dim=FEED_FORWARD,
        encoder_n_points=POINTS,
        decoder_n_points=POINTS,
        num_feature_levels=variant.levels,
        num_queries=QUERIES,
        two_stage_num_proposals=QUERIES,
        num_labels=80,
        dropout=0.0,
        with_box_refine=variant.refine,
        two_stage=variant.two_stage,
        attn_implementation="eager",
    )
    model = DeformableDetrForObjectDetection(config)
    model.model.backbone.model = Body(variant)
    for i in range(variant.levels):
        weight = official[f"input_proj.{i}.0.weight"]
        stride = 2 if weight.shape[-1] == 3 else 1
        conv = nn.Conv2d(weight.shape[1], C, weight.shape[-1], stride, padding=weight.shape[-1] // 2)
        model.model.input_proj[i] = nn.Sequential(conv, nn.GroupNorm(32, C))
    if variant.refine and not variant.two_stage:
        # The reference ties the class heads of all layers, the official models have one each.
        model.class_embed = nn.ModuleList(nn.Linear(C, 80) for _ in range(DECODER_LAYERS))
    state = {}
    for name, value in official.items():
        if "class_embed." in name:
            value = value[kept_rows(name, variant)]
        names = oracle_names(name)
        state |= dict(zip(names, value.chunk(len(names)), strict=True))
    model.load_state_dict(state, strict=True)
    return model


def kept_rows(name: str, variant: Variant) -> list[int]:
    """Rows of an official class head that a model of 80 classes keeps; of the proposals', the first is objectness."""
    is_of_proposals = variant.two_stage and f"class_embed.{DECODER_LAYERS}." in name
    return [0, *KEPT_CLASS_ROWS[1:]] if is_of_proposals else KEPT_CLASS_ROWS


def oracle_names(official_name: str) -> list[str]:
    """The reference's parameters that one official parameter consists of, in order: three for stacked projections."""
    name = next(iter(DEFORMABLE.to_ours({official_name: torch.empty(0)})))
    names = names_in_transformers(name, "deformable", "timm")
    return [name.replace("model.backbone.model.", "model.backbone.model.body.") for name in names]


def oracle_gradients(model: nn.Module, official_names: Sequence[str], loss: Tensor) -> dict[str, Tensor]:
    """Gradient of ``loss`` for every trainable parameter by (its first) official name; zeros where it has none."""
    parameters = {k: p for k, p in model.named_parameters() if p.requires_grad}
    values = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True, materialize_grads=True)
    gradients = dict(zip(parameters, values, strict=True))
    by_official_name = {}
    for official_name in official_names:
        names = oracle_names(official_name)
        if names[0] in gradients:
            by_official_name[official_name] = torch.cat([gradients.pop(name) for name in names])
    assert not gradients, f"no official name maps to {sorted(gradients)}"
    return by_official_name


def run_oracle(model: DeformableDetrForObjectDetection, pixel_values: Tensor, pixel_mask: Tensor) -> Stages:
    """Forward through the reference, all stages recorded. ``pixel_mask`` is 1 where there is image."""
    encoder: list[Tensor] = []
    every_layer: list[Tensor] = []

    def keep_every_layer(logits, labels, device, boxes, config, all_logits, all_boxes) -> tuple:
        every_layer.extend([all_logits, all_boxes])
        return logits.new_zeros(()), {}, None

    model.loss_function = keep_every_layer  # called with what the results alone do not hold
    handles = [
        layer.register_forward_hook(lambda module, args, output: encoder.append(output))
        for layer in model.model.encoder.layers
    ]
    try:
        result = model(pixel_values=pixel_values, pixel_mask=pixel_mask, labels=[])
    finally:
        for handle in handles:
            handle.remove()
    later = result.intermediate_reference_points.unbind(1)[:-1]
    two_stage = result.enc_outputs_class is not None
    return Stages(
        encoder=encoder,
        hidden=result.intermediate_hidden_states.transpose(0, 1),
        references=[result.init_reference_points, *later],
        logits=every_layer[0],
        boxes=every_layer[1],
        proposal_logits=result.enc_outputs_class,
        proposal_boxes=result.enc_outputs_coord_logits.sigmoid() if two_stage else None,
    )


def oracle_losses(stages: Stages, targets: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Weighted losses by official name. Those of proposals, which the reference lacks, are its criterion's on them, to
    which every object is of class 0.
    """
    criterion = DeformableDetrImageLoss(
        matcher=DeformableDetrHungarianMatcher(class_cost=2, bbox_cost=5, giou_cost=2),
        num_classes=80,
        focal_alpha=0.25,
        losses=["labels", "boxes"],
    ).to(stages.logits.dtype)
    layers = [{"logits": a, "pred_boxes": b} for a, b in zip(stages.logits, stages.boxes, strict=True)]
    losses = criterion({**layers[-1], "auxiliary_outputs": layers[:-1]}, targets)
    if stages.proposal_logits is not None:
        objects = [target | {"class_labels": torch.zeros_like(target["class_labels"])} for target in targets]
        proposals = {"logits": stages.proposal_logits, "pred_boxes": stages.proposal_boxes}
        losses |= {f"{name}_enc": value for name, value in criterion(proposals, objects).items()}
    return {
        name: weight * value
        for name, value in losses.items()
        for kind, weight in LOSS_WEIGHTS.items()
        if name.startswith(kind)
    }
