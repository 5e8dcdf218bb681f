"""D-FINE in training and in evaluation, in every precision, and what a config may not say."""

import pytest
import torch
from detectron2.utils.events import EventStorage

from detr_d2.modeling import DFINE
from detr_d2.modeling.set_prediction import BoxLosses, DistributionLosses, QualityScoring
from detr_d2.structures import Distributions, Matches, Predictions, Targets

from ...parity.d_fine.oracle import CLASSES, LAYERS, build_oracle, build_ours, our_cfg, our_state
from .inputs import make_inputs

SIZES = [(64, 96), (64, 96)]
SUFFIXES = [*(f"_{i}" for i in range(LAYERS)), ""]
SIDED = SUFFIXES[-LAYERS:]


def inputs(*counts: int) -> list[dict]:
    """Images with so many objects each."""
    items = make_inputs(counts, sizes=SIZES)
    for item in items:
        item["instances"].gt_classes %= CLASSES
    return items


@pytest.fixture
def model() -> DFINE:
    torch.manual_seed(0)
    return build_ours()


@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (12, 1)], ids=str)
def test_trains_every_parameter(model: DFINE, counts: tuple[int, int]) -> None:
    """Also on images without any object, the embedding of labels included."""
    with EventStorage():
        losses = model.train()(inputs(*counts))
    names = {f"{name}{suffix}" for name in ("loss_ce", "loss_bbox", "loss_giou") for suffix in (*SUFFIXES, "_enc")}
    names |= {f"{name}{suffix}" for name in ("loss_fgl", "loss_ddf") for suffix in SIDED}
    assert set(losses) == names | {f"{name}_dn" for name in names if not name.endswith("_enc")}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("precision", [torch.float16, torch.bfloat16], ids=str)
def test_losses_of_mixed_precision_are_those_of_fp32(model: DFINE, precision: torch.dtype) -> None:
    items = inputs(3, 2)

    def losses() -> dict[str, torch.Tensor]:
        torch.manual_seed(1)  # the same noise
        return model.train()(items)

    expected = losses()
    with torch.autocast("cpu", dtype=precision):
        result = losses()
    for loss in result.values():
        assert loss.dtype == torch.float32
        assert loss.isfinite()
    total, other = (sum(x.values()) for x in (result, expected))
    torch.testing.assert_close(total, other, rtol=0.03, atol=0)
    total.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())


def test_what_overflows_in_fp16_is_no_nan() -> None:
    """The feed-forward network of the encoder, where published code makes NaN, and those of the decoder."""
    oracle, ours = build_oracle(), build_ours()
    with torch.no_grad():
        for stack in (oracle.model.encoder.aifi[0], oracle.model.decoder):
            for factor, linear in zip((1e2, 1e4), stack.layers[0].mlp.layers, strict=True):
                linear.weight.mul_(factor)
    ours.load_state_dict(our_state(oracle))
    images = ours.eval().preprocess(inputs(1, 1))
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.float16):
        assert oracle.eval()(images.tensor).logits.isnan().any()
        predictions = ours.detect(images).predictions
    assert predictions.logits.isfinite().all()
    assert predictions.boxes.isfinite().all()


def test_boxes_without_size_or_turned_inside_out_have_finite_losses() -> None:
    """Sides are free to pass each other; two boxes without area have no IoU."""
    boxes = torch.tensor([[[[0.5, 0.5, 0.0, 0.0], [0.5, 0.5, -0.1, 0.2], [0.2, 0.2, 1e-6, 1e-6]]]], requires_grad=True)
    logits, sides = torch.zeros(1, 1, 3, 2, requires_grad=True), torch.zeros(1, 1, 3, 4, 33, requires_grad=True)
    bins = torch.linspace(-4, 4, 33)
    start = boxes[0].detach().clamp(min=0).half()
    predictions = Predictions(logits, boxes, distributions=Distributions(sides, start, bins, torch.tensor([4.0])))
    targets = Targets(torch.zeros(1, 3, dtype=torch.int64), start.float(), [3])
    matches = Matches(torch.zeros(3, dtype=torch.int64), torch.arange(3)[None], torch.arange(3)[None])
    losses = {}
    for term in (QualityScoring(0.25, 2.0, 300).losses, BoxLosses(), DistributionLosses()):
        losses |= term(predictions, targets, matches, torch.tensor(3.0))
    assert all(loss.isfinite().all() for loss in losses.values())
    gradients = torch.autograd.grad(sum(loss.sum() for loss in losses.values()), [logits, boxes, sides])
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_denoising_changes_nothing_for_object_queries(model: DFINE) -> None:
    items = inputs(3, 2)
    losses = model.train()(items)
    model.denoising = None
    for name, loss in model(items).items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"POINTS": [3, 6]}, r"MODEL.DFINE.POINTS is \[3, 6\], one number for each level"),
        ({}, "DEEP_SUPERVISION False"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused(change: dict, message: str) -> None:
    cfg = our_cfg()
    cfg.MODEL.DFINE.update(change)
    cfg.MODEL.DETR.DEEP_SUPERVISION = bool(change)
    with pytest.raises(ValueError, match=message):
        DFINE(cfg)
