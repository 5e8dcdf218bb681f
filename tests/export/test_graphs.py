"""Graphs called as they are, without recording them, against the models that they are made of."""

from functools import partial

import pytest
import torch
from detectron2.modeling import META_ARCH_REGISTRY

from detr_d2.export import graph_of
from detr_d2.export.capture import Shape
from detr_d2.export.check import compare

from .tiny import FAMILIES, tiny_cfg, tiny_model

SIZES = [(96, 96), (60, 90), (81, 51)]


def images(sizes: list[tuple[int, int]]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


@torch.no_grad()
def run(graph, batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
    return dict(zip(graph.output_names, graph(batch, sizes), strict=True))


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_a_padded_batch_gives_what_the_model_gives(family: str):
    model = tiny_model(tiny_cfg(family))
    graph = graph_of(type(model))(model)
    shape = Shape(3, 96, 96, False, graph.size_multiple)
    found = compare(graph, partial(run, graph), images(SIZES), shape)
    assert found.detections > 6
    found.check(1e-5)


@torch.no_grad()
def test_sizes_that_are_lost_are_found():
    """By what the padding then does."""
    model = tiny_model(tiny_cfg("detr"))
    graph = graph_of(type(model))(model)

    def broken(batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        return run(graph, batch, torch.full_like(sizes, 64))

    with pytest.raises(ValueError, match="it differs from the model"):
        compare(graph, broken, images(SIZES), Shape(1, 96, 96, False, 1)).check(1e-2)


@torch.no_grad()
def test_masks_of_stuff_are_compared():
    """And those of queries whose score is too low for the model's own instances."""
    model = tiny_model(tiny_cfg("panoptic", "MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE", "0.9"))
    graph = graph_of(type(model))(model)

    def negated(batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = run(graph, batch, sizes)
        is_stuff = ~torch.isin(outputs["classes"], torch.tensor(graph.facts["thing_classes"]))
        assert is_stuff.any()
        return outputs | {"masks": torch.where(is_stuff[..., None, None], -outputs["masks"], outputs["masks"])}

    def doubled(batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits of which every pixel is right."""
        outputs = run(graph, batch, sizes)
        return outputs | {"masks": 2 * outputs["masks"]}

    shape = Shape(1, 96, 96, False, 1)
    same = compare(graph, partial(run, graph), images(SIZES), shape)
    assert same.mask < 1e-4
    assert same.logit < 1e-5
    for spoilt in (negated, doubled):
        with pytest.raises(ValueError, match="it differs from the model"):
            compare(graph, spoilt, images(SIZES), shape).check(1e-2)


@torch.no_grad()
def test_what_finds_nothing_is_no_proof():
    """A graph without detections beside a model with some, and beside a model without any."""
    model = tiny_model(tiny_cfg("fcos"))
    graph = graph_of(type(model))(model)
    shape = Shape(1, 96, 96, False, graph.size_multiple)

    def empty(batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = run(graph, batch, sizes)
        return outputs | {"scores": torch.zeros_like(outputs["scores"])}

    with pytest.raises(ValueError, match="it differs from the model"):
        compare(graph, empty, images(SIZES), shape).check(1e-2)
    model.postprocessor.score_threshold = 1.0
    with pytest.raises(ValueError, match=r"nothing was compared, .* --check-dataset"):
        compare(graph, partial(run, graph), images(SIZES), shape).check(1e-2)


@torch.no_grad()
def test_masks_of_the_surest_queries_only():
    model = tiny_model(tiny_cfg("panoptic"))
    make = graph_of(type(model))
    batch, sizes = torch.rand(2, 3, 64, 80) * 255, torch.tensor([[64, 80], [50, 70]])
    every, few = run(make(model), batch, sizes), run(make(model, 3), batch, sizes)
    scores, query = every["scores"].topk(3, dim=1)
    torch.testing.assert_close(few["scores"], scores)
    for image in range(2):
        torch.testing.assert_close(few["boxes"][image], every["boxes"][image, query[image]])
        torch.testing.assert_close(few["masks"][image], every["masks"][image, query[image]], atol=1e-5, rtol=1e-5)


def test_the_model_keeps_its_own_mask_head():
    model = tiny_model(tiny_cfg("panoptic"))
    before = model.mask_head.chunk_size
    graph_of(type(model))(model)
    assert model.mask_head.chunk_size == before


@pytest.mark.parametrize("name", ["GeneralizedRCNN", "RetinaNet", "PanopticFPN"])
def test_detectron2s_own_models_have_none(name: str):
    with pytest.raises(ValueError, match=f"{name} cannot be exported"):
        graph_of(META_ARCH_REGISTRY.get(name))
