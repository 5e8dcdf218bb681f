"""What is recorded of DETR and Deformable DETR with random weights, small."""

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from torch import nn
from torch.nn import functional as F

from detr_d2.kernels.ms_deform_attn import ms_deform_attn
from detr_d2.layers import deformable_attention
from detr_d2.structures import PaddedImages
from detr_d2.visualization.attention import record, recorded_inputs
from detr_d2.visualization.attention_maps import AttentionMap, Level
from detr_d2.visualization.attention_sheet import AttentionDrawer
from detr_d2.visualization.sampling_points import SamplingPoints, level_color

from ..parity.mask2former.oracle import randomize, small_config

SIZE = (64, 96)  # of the image


@pytest.fixture
def detr(small_detr_cfg):
    return randomized(build_model(small_detr_cfg).eval())


@pytest.fixture
def deformable(small_deformable_cfg):
    return randomized(build_model(small_deformable_cfg("_refine")).eval())


def randomized(model: nn.Module) -> nn.Module:
    """Attention that is not the same everywhere."""
    torch.manual_seed(0)
    for name, parameter in model.transformer.named_parameters():
        if parameter.dim() > 1 and "norm" not in name:
            nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    return model


@pytest.fixture
def item() -> dict:
    generator = torch.Generator().manual_seed(0)
    return {"image": torch.randint(0, 256, (3, *SIZE), generator=generator, dtype=torch.uint8)}


def padded(model: nn.Module, monkeypatch) -> None:
    """Lets the model see every image with padding, as backbones with a size divisibility do, but for what convolutions
    see at the image's border: features are those of the image alone, padded.
    """
    plain, backbone, shapes = model.preprocess, model.backbone.forward, model.backbone.output_shape()

    def features(images: torch.Tensor) -> dict[str, torch.Tensor]:
        size = images.shape[-1]
        found = backbone(images[..., : SIZE[0], : SIZE[1]])
        extents = {name: (size // shapes[name].stride, *x.shape[-2:]) for name, x in found.items()}
        return {name: F.pad(found[name], (0, side - w, 0, side - h)) for name, (side, h, w) in extents.items()}

    monkeypatch.setattr(model.backbone, "forward", features)
    monkeypatch.setattr(
        model, "preprocess", lambda inputs: PaddedImages.from_tensors([*plain(inputs).tensor], size_divisibility=128)
    )


def test_maps_sum_to_one_over_the_image(detr, item) -> None:
    recording = record(detr, item)
    looks = recording.look("decoder", 2, recording.queries([0, 11], 0))
    looks += recording.look("encoder", 1, [recording.location((0.9, 0.2), 0)])
    for look in looks:
        assert look.attention.weights.shape == (4, 2, 3)
        torch.testing.assert_close(look.attention.weights.sum((1, 2)), torch.ones(4))


def test_masked_attention_layer_by_layer(item) -> None:
    """Of Mask2Former each layer reads one level, the coarsest first, and of that what the query's mask covers."""
    model = build_model(small_config("resnet")).eval()
    randomize(model)
    item["image"] = item["image"][:, :40, :75]  # of a frame of 64 x 96
    recording = record(model, item)
    assert [level.shape for level in recording.levels] == [(2, 3), (4, 6), (8, 12)]
    assert recording.levels[2].valid == (5.0, 75 / 8)
    queries = recording.queries([6, 1], 0)
    layers = [recording.look("decoder", i, queries) for i in range(4)]
    assert [looks[0].attention.weights.shape[1:] for looks in layers] == [(2, 3), (3, 5), (5, 10), (2, 3)]
    for (_, inputs), looks in zip(recording.layers["decoder"], layers, strict=True):
        shape = next(level.shape for level in recording.levels if np.prod(level.shape) == inputs["key"].shape[1])
        for look in looks:
            weights = look.attention.weights
            allowed = inputs["attn_mask"][0, 0, look.who.index].view(shape)[: weights.shape[1], : weights.shape[2]]
            assert torch.equal((weights > 0).all(0), allowed)
    assert sum(int(not inputs["attn_mask"].all()) for _, inputs in recording.layers["decoder"]) > 1
    picture = np.zeros((40, 75, 3), np.uint8)
    assert layers[2][0].attention.draw(picture, 40).shape == (40, 75, 3)
    assert all(0 <= x <= 1 for query in queries for x in query.box.tolist())
    (look,) = recording.look("encoder", 1, [recording.location((0.9, 0.2), 2)])
    assert look.who.index == 6 + 24 + 1 * 12 + 8
    torch.testing.assert_close(look.attention.reference, torch.tensor([8.5 / (75 / 8), 1.5 / 5]))


def test_padding_gets_no_attention_and_leaves_the_maps_as_they_are(detr, item, monkeypatch) -> None:
    alone = record(detr, item)
    padded(detr, monkeypatch)
    beside = record(detr, item)
    assert beside.levels == [Level((4, 4), (2, 3))]
    for stack, who in (("decoder", [0, 5]), ("encoder", [(0.9, 0.2)])):
        one, other = (
            rec.look(stack, 0, rec.queries(who, 0) if stack == "decoder" else [rec.location(point, 0) for point in who])
            for rec in (alone, beside)
        )
        for a, b in zip(one, other, strict=True):
            torch.testing.assert_close(b.attention.weights, a.attention.weights, atol=1e-4, rtol=1e-3)


def test_points_are_relative_to_the_image_also_beside_padding(deformable, item, monkeypatch) -> None:
    alone = record(deformable, item)
    padded(deformable, monkeypatch)
    beside = record(deformable, item)
    assert [level.valid for level in beside.levels] == [level.valid for level in alone.levels]
    assert beside.levels != alone.levels
    for layer in range(3):
        pairs = zip(*(rec.look("decoder", layer, rec.queries([0, 5], 0)) for rec in (alone, beside)), strict=True)
        for a, b in pairs:
            for name in ("locations", "weights", "reference"):
                one, other = getattr(a.attention, name), getattr(b.attention, name)
                torch.testing.assert_close(other, one, atol=1e-3, rtol=1e-3)


def test_a_cell_reads_around_its_point(deformable, item) -> None:
    recording = record(deformable, item)
    for level in range(4):
        (look,) = recording.look("encoder", 0, [recording.location((0.7, 0.3), level)])
        rows, columns = recording.levels[level].valid
        assert abs(look.attention.reference - torch.tensor([0.7, 0.3])).le(torch.tensor([1 / columns, 1 / rows])).all()


def test_points_are_those_that_the_operator_gets(deformable, item, monkeypatch) -> None:
    seen = []

    def operator(value, shapes, locations, weights, *, backend):
        seen.append((locations, weights))
        return ms_deform_attn(value, shapes, locations, weights, backend=backend)

    monkeypatch.setattr(deformable_attention, "ms_deform_attn", operator)
    recording = record(deformable, item)
    assert len(seen) == 5
    cell = recording.location((0.2, 0.9), 1)
    steps = [
        *(("encoder", i, cell) for i in range(2)),
        *(("decoder", i, recording.queries([4], 0)[0]) for i in range(3)),
    ]
    for (stack, layer, who), (locations, weights) in zip(steps, seen, strict=True):
        (look,) = recording.look(stack, layer, [who])
        torch.testing.assert_close(look.attention.locations, locations[0, who.index])
        torch.testing.assert_close(look.attention.weights, weights[0, who.index])


def test_the_model_is_left_as_it_was(detr, item) -> None:
    with torch.no_grad():
        before = detr([item])[0]["instances"].scores
    record(detr, item)
    with pytest.raises(RuntimeError, match="stop"), recorded_inputs({"x": detr.transformer}):
        raise RuntimeError("stop")
    assert not any(module._forward_pre_hooks for module in detr.modules())
    with torch.no_grad():
        assert torch.equal(detr([item])[0]["instances"].scores, before)


def test_inputs_are_kept_by_name() -> None:
    class Scale(nn.Module):
        def forward(self, x: int, factor: int = 3) -> int:
            return x * factor

    scale = Scale()
    with recorded_inputs({"scale": scale}) as calls:
        scale(2)
        scale(x=4, factor=5)
    scale(6)
    assert calls == {"scale": [{"x": 2, "factor": 3}, {"x": 4, "factor": 5}]}


def test_the_most_certain_queries(deformable, item) -> None:
    recording = record(deformable, item)
    queries = recording.queries(None, 3)
    with torch.no_grad():
        logits = deformable.detect(deformable.preprocess([item])).predictions.pred_logits[0]
    assert [q.index for q in queries] == logits.sigmoid().amax(-1).topk(3).indices.tolist()
    assert len(recording.queries(None, 10_000)) == len(logits)
    with pytest.raises(ValueError, match="There is no query 12: the model has queries 0 to 11"):
        recording.queries([3, 12], 0)
    with pytest.raises(ValueError, match="There is no level 4: the model has levels 0 to 3"):
        recording.location((0, 0), 4)


@pytest.mark.parametrize(
    ("point", "level", "index"),
    [((0, 0), 0, 0), ((1, 1), 0, 5 * 16 + 7), ((0.5, 0.5), 0, 3 * 16 + 4), ((0.99, 0.01), 1, 8 * 16 + 3)],
)
def test_cells_of_padded_levels(detr, item, point, level, index) -> None:
    recording = record(detr, item)._replace(levels=[Level((8, 16), (6, 8)), Level((4, 8), (3, 4))])
    assert recording.location(point, level).index == index


def test_points_are_drawn_where_they_are_in_the_colour_of_their_level() -> None:
    locations, weights = torch.full((2, 2, 1, 2), 2.0), torch.full((2, 2, 1), 0.05)  # out of the image
    locations[0, 0], locations[1, 1] = torch.tensor([0.25, 0.5]), torch.tensor([0.75, 0.5])
    weights[0, 0] = weights[1, 1] = 0.95
    points = SamplingPoints(locations, weights, torch.tensor([0.5, 0.1]))
    black = np.zeros((50, 100, 3), dtype=np.uint8)
    picture = points.draw(black, 200)
    assert picture.shape == (200, 400, 3)
    assert tuple(picture[100, 100]) == level_color(0)
    assert tuple(picture[100, 300]) == level_color(1)
    assert picture[20, 200].min() > 200  # the reference
    of_head = points.draw(black, 200, head=1)
    assert not of_head[100, 100].any()
    assert tuple(of_head[100, 300]) == level_color(1)


def test_map_of_one_head() -> None:
    weights = torch.zeros(2, 4, 6)
    weights[0, 0, 0] = weights[1, 3, 5] = 1
    black = np.zeros((80, 120, 3), dtype=np.uint8)
    attention = AttentionMap(weights)
    both, first = attention.draw(black, 160).astype(int), attention.draw(black, 160, 0).astype(int)
    assert both[5, 5].sum() > 200 < both[-5, -5].sum()
    assert first[5, 5].sum() > 200 > first[-5, -5].sum()


def test_rows_of_layers_or_of_heads(detr, item) -> None:
    recording = record(detr, item)
    looks = [x for layer in (0, 2) for x in recording.look("decoder", layer, recording.queries(None, 2))]
    image = item["image"].permute(1, 2, 0).numpy()
    of_layers = list(AttentionDrawer(None, 60).rows(image, "name", looks))
    assert [len(row) for row in of_layers] == [3, 3]
    of_heads = list(AttentionDrawer(["x"] * 80, 60, per_head=True).rows(image, "name", looks))
    assert [len(row) for row in of_heads] == [5] * 4
    assert len({picture.shape for row in of_layers + of_heads for picture in row}) == 1
    assert not np.array_equal(of_heads[0][1], of_heads[0][2])
