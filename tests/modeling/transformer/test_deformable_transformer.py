import math

import pytest
import torch
from detectron2.modeling import build_model
from torch import Tensor, nn

from detr_d2.layers import MLP, MSDeformAttn
from detr_d2.modeling.transformer import DeformableTransformer, Heads
from detr_d2.modeling.transformer.deformable_transformer import DeformableDecoder, DeformableEncoder, box_around
from detr_d2.modeling.transformer.query_selection import LearnedQueries, TwoStageQueries
from detr_d2.structures import FeatureLevels, Targets

C, QUERIES, CLASSES, DECODER_LAYERS = 32, 6, 3, 3
SHAPES = [(6, 8), (3, 4)]


def build(two_stage: bool = False, refine: bool = False) -> tuple[DeformableTransformer, Heads]:
    torch.manual_seed(0)
    selection = (TwoStageQueries if two_stage else LearnedQueries)(num_queries=QUERIES, dim=C)
    layer = {
        "dim": C,
        "dim_feedforward": 48,
        "dropout": 0.0,
        "num_levels": len(SHAPES),
        "num_heads": 4,
        "num_points": 4,
    }
    transformer = DeformableTransformer(
        encoder=DeformableEncoder(2, **layer),
        decoder=DeformableDecoder(DECODER_LAYERS, refine, **layer),
        query_selection=selection,
        dim=C,
        num_levels=len(SHAPES),
    )
    class_embed = [nn.Linear(C, CLASSES) for _ in range(DECODER_LAYERS + two_stage)]
    bbox_embed = [MLP(C, C, 4, 3) for _ in range(DECODER_LAYERS + two_stage)]
    proposals = (class_embed.pop(), bbox_embed.pop()) if two_stage else ()
    return transformer, Heads(class_embed, bbox_embed, *proposals)


def levels_of(valid: tuple[int, int] | None = None, maps: list[Tensor] | None = None) -> FeatureLevels:
    """Levels of two images, random or as given. All but ``valid`` rows and columns of the last image's first level, and
    half as many of the second, are padding.
    """
    generator = torch.Generator().manual_seed(1)
    maps = maps or [torch.randn(2, C, *shape, generator=generator) for shape in SHAPES]
    masks = [torch.zeros(len(x), *x.shape[-2:], dtype=torch.bool) for x in maps]
    if valid:
        for i, mask in enumerate(masks):
            mask[-1, valid[0] >> i :] = True
            mask[-1, :, valid[1] >> i :] = True
    return FeatureLevels.from_maps(maps, [torch.sin(x) for x in maps], masks, has_padding=valid is not None)


@pytest.mark.parametrize(("two_stage", "refine"), [(False, False), (False, True), (True, True)])
def test_shapes(two_stage: bool, refine: bool) -> None:
    transformer, heads = build(two_stage, refine)
    output = transformer(levels_of(), heads, all_layers=True)
    assert output.hidden_states.shape == (DECODER_LAYERS, 2, QUERIES, C)
    assert output.boxes.shape == (DECODER_LAYERS, 2, QUERIES, 4)
    assert output.memory.shape == (2, 60, C)
    assert (output.proposals is None) == (not two_stage)
    last = transformer(levels_of(), heads, all_layers=False)
    torch.testing.assert_close(last.hidden_states, output.hidden_states[-1:])
    torch.testing.assert_close(last.boxes, output.boxes[-1:])


@pytest.mark.parametrize(("two_stage", "refine"), [(False, False), (False, True), (True, True)])
def test_padding_changes_nothing(two_stage: bool, refine: bool) -> None:
    """The same image alone, and padded with garbage beside a larger one."""
    transformer, heads = build(two_stage, refine)
    large = [100 * torch.randn(2, C, *shape) for shape in SHAPES]
    small = [x[1:, :, : 4 >> i, : 6 >> i] for i, x in enumerate(large)]
    for part in small:
        part /= 100
    alone = transformer(levels_of(maps=[x.clone() for x in small]), heads, all_layers=True)
    beside = transformer(levels_of(maps=large, valid=(4, 6)), heads, all_layers=True)
    torch.testing.assert_close(beside.boxes[:, 1:], alone.boxes, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(beside.hidden_states[:, 1:], alone.hidden_states, rtol=1e-4, atol=1e-4)


def test_references_stay_without_refinement_and_move_detached_with_it() -> None:
    transformer, heads = build()
    output = transformer(levels_of(), heads, all_layers=True)
    assert all(reference is output.references[0] for reference in output.references)
    transformer, heads = build(refine=True)
    output = transformer(levels_of(), heads, all_layers=True)
    for i in range(1, DECODER_LAYERS):
        assert torch.equal(output.references[i], output.boxes[i - 1])
        assert not output.references[i].requires_grad
    output.boxes[-1].sum().backward()
    assert not heads.bbox_embed[0].layers[0].weight.grad.any()  # the last box teaches the last head alone
    assert heads.bbox_embed[-1].layers[0].weight.grad.any()


def test_boxes_start_from_points_or_boxes() -> None:
    logits = torch.randn(3, 4)
    point, box = torch.tensor([0.2, 0.7]), torch.tensor([0.2, 0.7, 0.1, 0.4])
    expected = torch.cat([(logits[:, :2] + point.logit()).sigmoid(), logits[:, 2:].sigmoid()], dim=1)
    torch.testing.assert_close(box_around(point.expand(3, -1), logits), expected)
    torch.testing.assert_close(box_around(box.expand(3, -1), logits), (logits + box.logit()).sigmoid())


def test_proposals_are_squares_at_the_cells() -> None:
    """Of 0.05 in the first level and 0.1 in the second, moved by what the head says."""
    transformer, heads = build(two_stage=True, refine=True)
    nn.init.zeros_(heads.proposal_bbox_embed.layers[-1].weight)
    nn.init.zeros_(heads.proposal_bbox_embed.layers[-1].bias)
    levels = levels_of(valid=(4, 6))
    proposals = transformer(levels, heads, all_layers=True).proposals
    first, second = levels.split(proposals.boxes)
    row, column = 3, 5
    expected = torch.tensor([(column + 0.5) / 6, (row + 0.5) / 4, 0.05, 0.05])
    torch.testing.assert_close(first[1].view(6, 8, 4)[row, column], expected)
    torch.testing.assert_close(second[0].view(3, 4, 4)[1, 2], torch.tensor([2.5 / 4, 0.5, 0.1, 0.1]))
    padding = levels.padding_mask[1]
    assert (proposals.boxes[1][padding] == 1).all()
    assert (proposals.boxes[1][~padding] < 1).all()


def test_best_proposals_by_the_first_class_become_queries() -> None:
    transformer, heads = build(two_stage=True, refine=True)
    output = transformer(levels_of(valid=(4, 6)), heads, all_layers=True)
    proposals, reference = output.proposals, output.references[0]
    objectness = proposals.logits[..., 0].masked_fill(levels_of(valid=(4, 6)).padding_mask, -math.inf)
    for image in range(2):
        best = objectness[image].argsort(descending=True)[:QUERIES]
        assert torch.equal(proposals.selected[image], best)
        torch.testing.assert_close(reference[image], proposals.boxes[image, best])
    assert not reference.requires_grad


def test_what_proposals_are_trained_on() -> None:
    """All locations, to which all classes are the first; boxes as they are."""
    transformer, heads = build(two_stage=True, refine=True)
    proposals = transformer(levels_of(), heads, all_layers=True).proposals
    targets = Targets(torch.tensor([[2, 1], [1, 0]]), torch.rand(2, 2, 4), [2, 1])
    predictions, objects = transformer.query_selection.proposal_task(proposals, targets)
    assert torch.equal(predictions.pred_logits, proposals.logits)
    assert torch.equal(predictions.pred_boxes, proposals.boxes)
    assert objects.labels.tolist() == [[0, 0], [0, 0]]
    assert torch.equal(objects.boxes, targets.boxes)
    assert objects.counts == [2, 1]


def test_the_epsilon_bounds_how_far_boxes_start() -> None:
    corner = torch.zeros(1, 4)
    assert box_around(corner, torch.zeros(1, 4)).max() < 2e-5
    torch.testing.assert_close(box_around(corner, torch.zeros(1, 4), 1e-2), torch.full((1, 4), 0.01 / 1.01))


def test_fewer_cells_than_queries() -> None:
    transformer, heads = build(two_stage=True, refine=True)
    tiny = levels_of(maps=[torch.randn(1, C, 2, 1), torch.randn(1, C, 1, 1)])
    assert transformer(tiny, heads, all_layers=True).boxes.shape == (DECODER_LAYERS, 1, 3, 4)


def test_two_stage_needs_refinement() -> None:
    with pytest.raises(ValueError, match="BOX_REFINE True"):
        build(two_stage=True)


def test_initial_values() -> None:
    transformer, _ = build()
    for module in transformer.modules():
        if isinstance(module, MSDeformAttn):
            assert not module.sampling_offsets.weight.any()
            assert module.sampling_offsets.bias.abs().max() == 4
    assert 0.7 < transformer.level_embed.std() < 1.3
    assert 0.8 < transformer.query_selection.query_embed.weight.std() < 1.2
    assert not transformer.query_selection.reference_points.bias.any()
    bound = math.sqrt(6 / (C + 48))
    assert transformer.encoder.layers[0].linear1.weight.abs().max() <= bound


def test_the_backend_of_the_config_is_used(small_deformable_cfg) -> None:
    cfg = small_deformable_cfg("", "MODEL.DEFORMABLE_DETR.ATTENTION_BACKEND", "triton")
    model = build_model(cfg).eval()
    with pytest.raises(RuntimeError, match="cannot run on the backend 'triton'"):
        model([{"image": torch.zeros(3, 160, 160, dtype=torch.uint8)}])
