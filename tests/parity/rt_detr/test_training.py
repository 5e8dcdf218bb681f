"""Losses, gradients and statistics of a training step beside ``transformers``', denoising included."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from torch import Tensor
from torch.testing import assert_close
from torchvision.ops import box_convert
from transformers.models.rt_detr_v2 import modeling_rt_detr_v2

from detr_d2.checkpoint.layouts.rt_detr import HUGGINGFACE_RT_DETR
from detr_d2.layers import inverse_sigmoid
from detr_d2.modeling import RTDETR
from detr_d2.modeling.transformer import DenoisingQueries, NoisedObjects
from detr_d2.modeling.transformer.query_selection import Queries
from detr_d2.structures import Matches, Predictions, Targets

from .oracle import CLASSES, QUERIES, build_oracle, build_ours

SIZE = (64, 96)
LAYERS = 3


def inputs(counts: list[int]) -> list[dict]:
    """Images with random objects, in fp64."""
    generator = torch.Generator().manual_seed(5)
    scale = torch.tensor([SIZE[1], SIZE[0]] * 2, dtype=torch.float64)
    batch = []
    for count in counts:
        center = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 0.5 + 0.25
        size = torch.rand(count, 2, generator=generator, dtype=torch.float64) * 0.3 + 0.1
        instances = Instances(SIZE)
        instances.gt_boxes = Boxes(torch.zeros(0, 4))
        instances.gt_boxes.tensor = box_convert(torch.cat([center, size], -1), "cxcywh", "xyxy") * scale
        instances.gt_classes = torch.randint(0, CLASSES, (count,), generator=generator)
        image = torch.randint(0, 256, (3, *SIZE), generator=generator).double()
        batch.append({"image": image, "instances": instances})
    return batch


def expected_losses(oracle: torch.nn.Module, ours: RTDETR, batch: list[dict]) -> dict[str, Tensor]:
    """The reference's, under our names."""
    # Channels-last, since torch 2.11's BatchNorm has wrong gradients on CPUs for one image that changes its layout.
    images = torch.stack([item["image"] for item in batch]).contiguous(memory_format=torch.channels_last) / 255
    targets = ours.prepare_targets(batch, ours.preprocess(batch))
    labels = [
        {"class_labels": own[:count], "boxes": boxes[:count]}
        for own, boxes, count in zip(targets.labels, targets.boxes, targets.counts, strict=True)
    ]
    result = {}
    for name, value in oracle(images, labels=labels).loss_dict.items():
        kind, _, place = name.replace("loss_vfl", "loss_ce").partition("_dn_" if "_dn_" in name else "_aux_")
        number = f"_{place}" if place and int(place) < LAYERS - 1 else ""
        suffix = "_dn" if "_dn_" in name else "_enc" if place == str(LAYERS - 1) else ""
        result[f"{kind}{number}{suffix}"] = value
    return result


def compare(oracle: torch.nn.Module, ours: RTDETR, losses: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Losses, and the gradients of their sums."""
    assert losses.keys() == expected.keys()
    for name, value in expected.items():
        # Losses are computed in fp32 here.
        assert_close(losses[name], value, atol=1e-6, rtol=1e-5, check_dtype=False, msg=lambda t, n=name: f"{n}: {t}")
    sum(losses.values()).backward()
    sum(expected.values()).backward()
    gradients = {name: p.grad for name, p in oracle.named_parameters() if p.grad is not None}
    theirs = HUGGINGFACE_RT_DETR.to_ours(gradients)
    assert theirs.keys() == {name for name, p in ours.named_parameters() if p.grad is not None}
    for name, gradient in theirs.items():
        error = (ours.get_parameter(name).grad - gradient).norm()
        assert error <= 1e-5 * gradient.norm() + 1e-8, (name, error, gradient.norm())


@pytest.mark.parametrize("counts", [[4], [3, 5, 0]], ids=["one", "batch"])
def test_losses_and_gradients(counts: list[int]) -> None:
    oracle = build_oracle().double().train()
    ours, batch = build_ours(oracle).double().train(), inputs(counts)
    losses = ours(batch)
    compare(oracle, ours, losses, expected_losses(oracle, ours, batch))
    assert_close(
        ours.backbone.stem.conv1.norm.running_var,
        oracle.model.backbone.model.embedder.embedder[0].normalization.running_var,
    )


def test_denoising(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of as many objects in each image: the reference trains slots without one, too."""
    oracle = build_oracle(denoising=12).double().train()
    ours, batch = build_ours(oracle).double().train(), inputs([3, 3])
    drawn: list[NoisedObjects] = []
    draw = type(ours.denoising).draw
    monkeypatch.setattr(type(ours.denoising), "draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    losses = ours(batch)
    (noised,) = drawn

    def group(**arguments: object) -> tuple:
        """As the reference's function makes it, of what we drew."""
        objects = DenoisingQueries(noised, arguments["class_embed"](noised.labels))
        slots = noised.labels.shape[1]
        empty = torch.zeros(2, QUERIES, 32, dtype=torch.float64)
        sees = objects.before(Queries(empty, None, torch.zeros(2, QUERIES, 4))).attn_mask[0, 0]
        mask = torch.zeros(sees.shape, dtype=torch.float64).masked_fill(~sees, -torch.inf)
        positive = [own.nonzero()[:, 0] for own in noised.is_positive]
        meta = {"dn_positive_idx": positive, "dn_num_group": noised.groups, "dn_num_split": [slots, QUERIES]}
        return objects.target, inverse_sigmoid(noised.boxes), mask, meta

    monkeypatch.setattr(modeling_rt_detr_v2, "get_contrastive_denoising_training_group", group)
    expected = expected_losses(oracle, ours, batch)
    assert any(name.endswith("_dn") for name in expected)
    compare(oracle, ours, losses, expected)


def test_matchability_loss() -> None:
    """DEIM's: the IoU to a power is to be said of every object, which all weigh 1."""
    oracle = build_oracle()
    ours = build_ours(
        oracle,
        *["MODEL.RTDETR.CLASS_LOSS", "matchability", "MODEL.RTDETR.LOSS_ALPHA", 1.0, "MODEL.RTDETR.LOSS_GAMMA", 1.5],
    )
    logits = torch.tensor([[[[0.3, -1.0], [2.0, 0.5]]]])
    boxes = torch.tensor([[[[0.5, 0.5, 0.4, 0.4], [0.1, 0.1, 0.2, 0.2]]]])
    targets = Targets(torch.tensor([[1]]), torch.tensor([[[0.6, 0.5, 0.4, 0.4]]]), [1])
    matches = Matches(torch.tensor([0]), torch.tensor([[0]]), torch.tensor([[0]]))
    loss = ours.scoring.losses(Predictions(logits, boxes), targets, matches, torch.tensor(2.0))["loss_ce"]
    iou, p = 0.3 / 0.5, logits[0, 0].sigmoid()
    wanted = iou**1.5
    positive = -(wanted * p[0, 1].log() + (1 - wanted) * (1 - p[0, 1]).log())
    negatives = sum(-(x**1.5) * (1 - x).log() for x in (p[0, 0], p[1, 0], p[1, 1]))
    assert_close(loss, (positive + negatives)[None] / 2)
