from collections.abc import Callable
from functools import partial

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import BitMasks
from detectron2.utils.events import EventStorage

from detr_d2.modeling import DINO
from detr_d2.modeling.set_prediction import SetCriterion

from .inputs import assert_alone_equals_beside
from .inputs import make_inputs as of_sizes

make_inputs = partial(of_sizes, sizes=[(65, 90), (48, 101)])
BuildCfg = Callable[..., CfgNode]
BOX_LOSSES = ("loss_ce", "loss_bbox", "loss_giou")
# What takes the model back to a two-stage Deformable DETR with dynamic anchors, one step each.
STEPS = {
    "LOOK_FORWARD_TWICE": False,
    "MIXED_SELECTION": False,
    "CONTRASTIVE": False,
    "DENOISING_QUERIES": 0,
}


def build(cfg: CfgNode) -> DINO:
    torch.manual_seed(0)
    return build_model(cfg)


@pytest.mark.parametrize("variant", ["4scale_12ep", "5scale_12ep"])
@pytest.mark.parametrize("counts", [(3, 0), (0, 0), (12, 1)], ids=str)
def test_trains_every_parameter(small_dino_cfg: BuildCfg, variant: str, counts: tuple[int, int]) -> None:
    """Also on images without any object, the embedding of labels included."""
    model = build(small_dino_cfg(variant))
    with EventStorage():
        losses = model(make_inputs(counts))
    suffixes = ("", "_0", "_1", "_enc", "_dn", "_0_dn", "_1_dn")
    assert set(losses) == {f"{name}{suffix}" for name in BOX_LOSSES for suffix in suffixes}
    assert all(loss.isfinite() for loss in losses.values())
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []


@pytest.mark.parametrize("count", range(len(STEPS) + 1))
def test_parts_can_be_switched_off_one_by_one(small_dino_cfg: BuildCfg, count: int) -> None:
    off = [word for key in list(STEPS)[:count] for word in (f"MODEL.DINO.{key}", STEPS[key])]
    model = build(small_dino_cfg("4scale_12ep", *off))
    losses = model(make_inputs((3, 1)))
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert ("loss_ce_dn" in losses) == hasattr(model, "label_enc") == (count < 4)
    assert (model.transformer.query_selection.tgt_embed is None) == (count >= 2)


def test_denoising_changes_nothing_for_object_queries(small_dino_cfg: BuildCfg) -> None:
    inputs = make_inputs((3, 2))
    losses = build(small_dino_cfg())(inputs)
    without = build(small_dino_cfg("4scale_12ep", "MODEL.DINO.DENOISING_QUERIES", 0))
    without.load_state_dict(build(small_dino_cfg()).state_dict(), strict=False)  # no embedding of labels
    for name, loss in without(inputs).items():
        torch.testing.assert_close(losses[name], loss, rtol=1e-4, atol=1e-5)


def test_loss_of_an_image_does_not_depend_on_what_is_beside_it(small_dino_cfg: BuildCfg) -> None:
    """Without noise, nothing is left to chance: two images' losses are the sum of those of each, though the other image
    brings more objects and with them fewer groups and unused slots.
    """
    model = build(small_dino_cfg("4scale_12ep", "MODEL.DINO.LABEL_NOISE", 0.0, "MODEL.DINO.BOX_NOISE", 0.0))
    few, many = of_sizes((2, 9), sizes=[(64, 96), (64, 96)])

    def denoising_losses(*items: dict) -> torch.Tensor:
        losses = model(list(items))
        return sum(loss for name, loss in losses.items() if name.endswith("_dn"))

    alone, other, both = denoising_losses(few), denoising_losses(many), denoising_losses(few, many)
    torch.testing.assert_close(11 * both, 2 * alone + 9 * other, rtol=1e-4, atol=1e-4)


def test_only_selected_proposals_are_trained_with_true_classes(
    small_dino_cfg: BuildCfg, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, seen = build(small_dino_cfg()), {}
    forward = SetCriterion.forward

    def watch(criterion: SetCriterion, predictions, targets, matches=None, **options):
        seen[options.get("suffix", "")] = predictions, targets
        return forward(criterion, predictions, targets, matches, **options)

    monkeypatch.setattr(SetCriterion, "forward", watch)
    inputs = make_inputs((3, 2))
    model(inputs)
    predictions, targets = seen["_enc"]
    assert predictions.logits.shape == (1, 2, 12, 80)
    assert targets.labels[0].tolist() == inputs[0]["instances"].gt_classes.tolist()


def test_looking_forward_twice_trains_the_layer_before(small_dino_cfg: BuildCfg) -> None:
    """The boxes of layer 1 give gradients to the box head of layer 0, only then."""
    for twice in (True, False):
        overrides = ["MODEL.DINO.LOOK_FORWARD_TWICE", twice, "MODEL.DINO.SHARE_HEADS", False]
        model = build(small_dino_cfg("4scale_12ep", *overrides))
        torch.nn.init.normal_(model.bbox_embed[0].layers[-1].weight, std=0.1)
        losses = model(make_inputs((3, 2)))
        head = model.bbox_embed[0].layers[-1].weight
        (gradient,) = torch.autograd.grad(losses["loss_bbox_1"], head, allow_unused=True)
        assert (gradient is not None and gradient.abs().max() > 0) == twice


def test_heads(small_dino_cfg: BuildCfg) -> None:
    shared, own = (build(small_dino_cfg("4scale_12ep", "MODEL.DINO.SHARE_HEADS", x)) for x in (True, False))
    for model, count in ((shared, 2), (own, 4)):
        assert len(model.class_embed) == len(model.bbox_embed) == 4  # three layers and the proposals
        assert len({id(head) for head in model.class_embed}) == len({id(head) for head in model.bbox_embed}) == count
    assert shared.class_embed[3] is not shared.class_embed[2]


def test_an_image_gives_the_same_alone_and_beside_a_larger_one(small_dino_cfg: BuildCfg) -> None:
    """From one backbone feature, cut or with garbage as padding; level sizes at which both masks agree."""
    model = build(small_dino_cfg()).eval()
    for name, p in model.named_parameters():
        if not name.startswith("backbone.") and p.dim() > 1:
            torch.nn.init.normal_(p, std=p[0].numel() ** -0.5)
    assert_alone_equals_beside(model)


def test_masks_come_by_config(small_dino_cfg: BuildCfg) -> None:
    panoptic = ["MODEL.META_ARCHITECTURE", "PanopticDETR", "MODEL.PANOPTIC_DETR.BOX_MODEL", "DINO"]
    things = ["MODEL.PANOPTIC_DETR.THING_CLASSES", tuple(range(80)), "MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL", False]
    features = ["MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]]
    model = build(small_dino_cfg("4scale_12ep", *panoptic, *things, *features))
    inputs = make_inputs((3, 2))
    for item in inputs:
        masks = torch.rand(len(item["instances"]), *item["image"].shape[-2:]) > 0.5
        item["instances"].gt_masks = BitMasks(masks)
    losses = model(inputs)
    assert {"loss_mask", "loss_dice", "loss_ce_dn", "loss_ce_enc"} <= set(losses)
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    model.eval()
    with torch.no_grad():
        assert set(model(inputs)[0]) == {"instances", "panoptic_seg"}
