"""Panoptic DETR against the reference's: attention maps, mask logits, mask losses, and gradients of the mask head.

The reference's panoptic post-processing is another one than the published (it thresholds masks and drops those that
others cover), so the merge is compared with a plain transcription of the published steps in
``tests/modeling/test_panoptic_postprocessing.py``.
"""

import copy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import FrozenBatchNorm2d, box_convert
from transformers import DetrConfig, DetrForSegmentation, ResNetConfig
from transformers.loss.loss_for_object_detection import HungarianMatcher, ImageLoss

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import load_config
from detr_d2.modeling import PanopticDETR

from .conftest import Batch, make_batch
from .official_weights import C, linear_shapes, official_state_dict, random_values
from .oracle import oracle_names

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "COCO-Detection" / "detr_R_50_500ep.yaml"
HEADS, CLASSES = 8, 91
WIDTHS = (C + HEADS, C + HEADS, C // 2, C // 4, C // 8, C // 16)
IMAGE_SIZES = {"one": [(97, 130)], "two": [(103, 109), (59, 163)]}
TOLERANCE = {"rtol": 1e-3, "atol": 1e-3}


@dataclass(frozen=True)
class Run:
    """Both models on one batch, with the reference's attention maps and outputs."""

    ours: PanopticDETR
    oracle: DetrForSegmentation
    batch: Batch
    attention: Tensor
    outputs: Any


class Body(nn.Module):
    """torchvision's ResNet-50 with all its stages, in the interface of a transformers backbone."""

    def __init__(self) -> None:
        super().__init__()
        resnet = torchvision.models.resnet50(norm_layer=FrozenBatchNorm2d)
        self.body = IntermediateLayerGetter(resnet, {f"layer{i + 1}": str(i) for i in range(4)})

    def forward(self, pixel_values: Tensor) -> list[Tensor]:
        return list(self.body(pixel_values).values())


def official_panoptic() -> dict[str, Tensor]:
    """Random weights in the layout of a published panoptic checkpoint (here with the box model's 91 + 1 rows)."""
    generator = torch.Generator().manual_seed(3)
    shapes = linear_shapes("bbox_attention.q_linear", C, C) | linear_shapes("bbox_attention.k_linear", C, C)
    for i, (inputs, outputs) in enumerate(pairwise(WIDTHS), start=1):
        shapes |= {f"mask_head.lay{i}.weight": (outputs, inputs, 3, 3), f"mask_head.lay{i}.bias": (outputs,)}
        shapes |= {f"mask_head.gn{i}.weight": (outputs,), f"mask_head.gn{i}.bias": (outputs,)}
    shapes |= {"mask_head.out_lay.weight": (1, WIDTHS[-1], 3, 3), "mask_head.out_lay.bias": (1,)}
    for i, (inputs, outputs) in enumerate(((1024, 128), (512, 64), (256, 32)), start=1):
        shapes |= {f"mask_head.adapter{i}.weight": (outputs, inputs, 1, 1), f"mask_head.adapter{i}.bias": (outputs,)}
    head = {name: random_values(name, shape, generator) for name, shape in shapes.items()}
    # Sharp attention, and much of it: it is small, and all that the masks of one image differ in.
    head["bbox_attention.q_linear.weight"] *= 6
    head["mask_head.lay1.weight"][:, C:] *= 400
    return {f"detr.{name}": value for name, value in official_state_dict(50).items()} | head


def oracle_name(name: str) -> list[str]:
    """The reference's names of an official panoptic parameter."""
    if name.startswith("detr."):
        return [f"detr.{part}" for part in oracle_names(name.removeprefix("detr."))]
    name = name.replace("q_linear", "q_proj").replace("k_linear", "k_proj").replace("out_lay", "output_conv")
    for i in (1, 2):
        name = name.replace(f"lay{i}", f"conv{i}.conv").replace(f"gn{i}", f"conv{i}.norm")
    for i in (3, 4, 5):
        stage = f"fpn_stages.{i - 3}.refine"
        name = name.replace(f"lay{i}", f"{stage}.conv").replace(f"gn{i}", f"{stage}.norm")
    for i in (1, 2, 3):
        name = name.replace(f"adapter{i}", f"fpn_stages.{i - 1}.fpn_adapter")
    return [name]


def build_oracle(official: dict[str, Tensor]) -> DetrForSegmentation:
    config = DetrConfig(
        backbone_config=ResNetConfig(
            embedding_size=8, hidden_sizes=[256, 512, 1024, 2048], depths=[1, 1, 1, 1], layer_type="basic"
        ),
        use_timm_backbone=False,
        num_labels=CLASSES,
        dropout=0.0,
        attn_implementation="eager",
    )
    config.backbone_config.out_features = ["stage1", "stage2", "stage3", "stage4"]
    model = DetrForSegmentation(config)
    model.detr.model.backbone.model = Body()
    model.load_state_dict(
        {
            name: part
            for key, value in official.items()
            for name, part in zip(oracle_name(key), value.chunk(len(oracle_name(key))), strict=True)
        },
        strict=True,
    )
    return model


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[PanopticDETR, DetrForSegmentation]:
    official = official_panoptic()
    names = ["META_ARCHITECTURE", "PanopticDETR", "DEVICE", "cpu", "DETR.DROPOUT", 0.0, "DETR.NUM_CLASSES", CLASSES]
    names += ["RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"], "PANOPTIC_DETR.THING_CLASSES", [1, 2]]
    cfg = load_config(str(CONFIG), [f"MODEL.{x}" if i % 2 == 0 else x for i, x in enumerate(names)])
    ours = build_model(cfg)
    path = tmp_path_factory.mktemp("weights") / "detr_panoptic.pth"
    torch.save({"model": official}, path)
    DetrCheckpointer(ours).load(str(path))
    return ours.train(), build_oracle(official).train()


@pytest.fixture(scope="module", params=IMAGE_SIZES)
def run(request: pytest.FixtureRequest, pair: tuple[PanopticDETR, DetrForSegmentation]) -> Run:
    ours, oracle = pair
    batch, seen = make_batch(IMAGE_SIZES[request.param]), []
    handle = oracle.bbox_attention.register_forward_hook(lambda module, args, output: seen.append(output))
    for name, parameter in oracle.named_parameters():
        parameter.requires_grad_(not name.startswith("detr."))
    outputs = oracle(pixel_values=batch.pixel_values, pixel_mask=batch.pixel_mask)
    handle.remove()
    return Run(ours, oracle, batch, seen[0], outputs)


def test_attention_maps(run: Run) -> None:
    images = run.ours.preprocess(run.batch.inputs)
    with torch.no_grad():
        inputs = run.ours.mask_inputs(run.ours.detect(images))
        mask = None if inputs.padding_mask is None else inputs.padding_mask.flatten(1)
        maps = run.ours.bbox_attention(inputs.queries, inputs.memory, mask)
    assert run.attention.std(1).mean() > 1e-4, "the queries look at the same cells"
    torch.testing.assert_close(maps, run.attention.flatten(3), rtol=1e-3, atol=1e-6)


def test_mask_logits_of_all_and_of_some_queries(run: Run) -> None:
    expected = run.outputs.pred_masks
    assert expected.std(1).mean() > 0.03, "the queries' masks do not differ"
    count = len(expected)
    with torch.no_grad():
        inputs = run.ours.mask_inputs(run.ours.detect(run.ours.preprocess(run.batch.inputs)))
        batch, query = torch.cartesian_prod(torch.arange(count), torch.arange(100)).unbind(1)
        masks = run.ours.predict_masks(inputs, batch, query)
        torch.testing.assert_close(masks.view_as(expected), expected, **TOLERANCE)
        some = torch.tensor([99, 3, 41])
        batch = torch.full_like(some, count - 1)
        masks = run.ours.predict_masks(inputs, batch, some)
        torch.testing.assert_close(masks, expected[-1, some], **TOLERANCE)


def test_losses(run: Run) -> None:
    inputs, labels = make_targets(run.batch)
    with torch.no_grad():
        losses = run.ours(inputs)
        expected = criterion_of_the_reference(torch.float32)(raw_outputs(run.outputs), labels)
    for name, weight in {"loss_ce": 1, "loss_bbox": 5, "loss_giou": 2, "loss_mask": 1, "loss_dice": 1}.items():
        torch.testing.assert_close(losses[name], weight * expected[name], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("counts", [(3, 2), (0, 4)], ids=str)
def test_in_fp64_with_gradients_of_the_mask_head(run: Run, counts: tuple[int, int]) -> None:
    """Attention maps, mask logits, losses, and the gradients of every parameter of the mask head.

    In fp32 a few ReLUs round to the other side of zero, and each of them shows. In fp64 the models differ by what ours
    always computes in fp32: the position encoding, and boxes, which decide the matching alone here.
    """
    ours, oracle = copy.deepcopy(run.ours).double(), copy.deepcopy(run.oracle).double()
    ours.requires_grad_(False)
    names = [name for name, _ in ours.named_parameters() if name.startswith(("mask_head.", "bbox_attention."))]
    parameters = [ours.get_parameter(name).requires_grad_() for name in names]
    assert len(names) == 2 * (5 + 5 + 1 + 3) + 4
    inputs, labels = make_targets(run.batch, counts)
    labels = [label | {"boxes": label["boxes"].double()} for label in labels]
    seen = []
    for model in (ours, oracle):
        model.bbox_attention.register_forward_hook(lambda module, args, output: seen.append(output))

    images = ours.preprocess(inputs)
    outputs = oracle(pixel_values=images.tensor, pixel_mask=run.batch.pixel_mask)
    detection = ours.detect(images)
    count = len(inputs)
    batch, query = torch.cartesian_prod(torch.arange(count), torch.arange(100)).unbind(1)
    masks = ours.predict_masks(ours.mask_inputs(detection), batch, query)
    torch.testing.assert_close(seen[1], seen[0].flatten(3), rtol=1e-4, atol=1e-9)
    torch.testing.assert_close(masks.view_as(outputs.pred_masks), outputs.pred_masks, rtol=1e-4, atol=1e-4)

    losses = ours.losses(detection, ours.prepare_targets(inputs, images))
    expected = criterion_of_the_reference(torch.float64)(raw_outputs(outputs), labels)
    for name in ("loss_mask", "loss_dice"):
        torch.testing.assert_close(losses[name], expected[name], rtol=1e-5, atol=1e-9)
    gradients = torch.autograd.grad(losses["loss_mask"] + losses["loss_dice"], parameters)
    reference = torch.autograd.grad(
        expected["loss_mask"] + expected["loss_dice"],
        [oracle.get_parameter(oracle_name(name)[0]) for name in names],
    )
    learns = any(counts[:count])
    for name, gradient, other in zip(names, gradients, reference, strict=True):
        assert gradient.any() == learns, name
        # Relative to the greatest: a bias before a norm gets 0 but for rounding where a channel is a group of its own.
        atol = 1e-4 * other.abs().max().item() + 1e-10
        torch.testing.assert_close(gradient, other, rtol=0.0, atol=atol, msg=lambda m, n=name: f"{n}: {m}")


def criterion_of_the_reference(dtype: torch.dtype) -> ImageLoss:
    """The criterion that the reference builds for itself."""
    matcher = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)
    return ImageLoss(matcher, CLASSES, 0.1, ["labels", "boxes", "masks"]).to(dtype)


def raw_outputs(outputs: Any) -> dict[str, Tensor]:
    return {name: outputs[name] for name in ("logits", "pred_boxes", "pred_masks")}


def make_targets(batch: Batch, counts: tuple[int, ...] = (3, 2)) -> tuple[list[dict], list[dict[str, Tensor]]]:
    """Rectangles with holes as objects, for our model and for the reference."""
    generator = torch.Generator().manual_seed(5)
    inputs, labels = [], []
    for item, (height, width), count in zip(batch.inputs, batch.sizes, counts, strict=False):
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        for i in range(count):
            masks[i, 7 * i : 7 * i + 40, 11 * i : 11 * i + 50] = True
            masks[i, 7 * i + 10 : 7 * i + 20, 11 * i + 5 : 11 * i + 15] = False
        instances = Instances((height, width), gt_masks=BitMasks(masks))
        instances.gt_boxes = Boxes(BitMasks(masks).get_bounding_boxes().tensor)
        instances.gt_classes = torch.randint(0, CLASSES, (count,), generator=generator)
        inputs.append(item | {"instances": instances})
        size = torch.tensor([width, height, width, height])
        boxes = box_convert(instances.gt_boxes.tensor / size, "xyxy", "cxcywh")
        labels.append({"class_labels": instances.gt_classes, "boxes": boxes, "masks": masks})
    return inputs, labels


def test_parameter_count(pair: tuple[PanopticDETR, DetrForSegmentation]) -> None:
    """Published: 42,899,288 with 250 + 1 class rows."""
    rows = (251 - CLASSES - 1) * (C + 1)
    count = sum(parameter.numel() for parameter in pair[0].parameters())
    assert count + rows == 42_899_288
    assert sum(p.numel() for p in pair[0].mask_head.parameters()) == 1_202_073
    assert sum(p.numel() for p in pair[0].bbox_attention.parameters()) == 131_584
