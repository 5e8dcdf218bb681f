import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from detr_d2.modeling.masks import DetrMaskHead

DIM, HEADS, B, QUERIES = 32, 4, 2, 7
CHANNELS, SIZES = (24, 12, 6), [(4, 5), (7, 9), (13, 18), (25, 36)]


def build(chunk_size: int = 16, levels: int = 3) -> DetrMaskHead:
    torch.manual_seed(0)
    head = DetrMaskHead(dim=DIM, num_heads=HEADS, feature_channels=CHANNELS[:levels], chunk_size=chunk_size)
    for name, parameter in head.named_parameters():
        if name.endswith("bias") or name.startswith("gn"):
            torch.nn.init.normal_(parameter)
    return head


def make_inputs(levels: int = 3) -> tuple[Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(1)
    features = [torch.randn(B, c, *size, generator=generator) for c, size in zip(CHANNELS, SIZES[1:], strict=True)]
    projected = torch.randn(B, DIM, *SIZES[0], generator=generator)
    return projected, torch.rand(B, QUERIES, HEADS, *SIZES[0], generator=generator), features[:levels]


def every_query() -> tuple[Tensor, Tensor]:
    return torch.arange(B).repeat_interleave(QUERIES), torch.arange(QUERIES).repeat(B)


def one_by_one(head: DetrMaskHead, projected: Tensor, attention: Tensor, features: list[Tensor]) -> Tensor:
    """The published head on one query at a time: features and attention concatenated, nothing shared."""
    masks = []
    for b in range(B):
        for maps in attention[b]:
            x = torch.cat([projected[b], maps])[None]
            x = head.gn1(head.lay1(x)).relu()
            x = head.gn2(head.lay2(x)).relu()
            for i, feature in enumerate(features, start=1):
                x = F.interpolate(x, size=feature.shape[-2:]) + head.get_submodule(f"adapter{i}")(feature[b : b + 1])
                x = head.get_submodule(f"gn{i + 2}")(head.get_submodule(f"lay{i + 2}")(x)).relu()
            masks.append(head.out_lay(x)[0, 0])
    return torch.stack(masks)


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_equals_the_published_head_query_by_query(levels: int) -> None:
    head, (projected, attention, features) = build(levels=levels), make_inputs(levels)
    masks = head(projected, attention[every_query()], features, every_query()[0])
    assert masks.shape == (B * QUERIES, *SIZES[levels])
    torch.testing.assert_close(masks, one_by_one(head, projected, attention, features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("chunk_size", [1, 3, 14])
def test_chunks_change_nothing(chunk_size: int) -> None:
    projected, attention, features = make_inputs()
    batch, query = every_query()
    expected = build(chunk_size=100)(projected, attention[batch, query], features, batch)
    head = build(chunk_size)
    sizes = []
    head.lay2.register_forward_hook(lambda module, args, output: sizes.append(len(output)))
    torch.testing.assert_close(
        head(projected, attention[batch, query], features, batch), expected, rtol=1e-4, atol=1e-4
    )
    assert max(sizes) == chunk_size
    assert sum(sizes) == len(batch)


def test_a_subset_of_queries_in_any_order() -> None:
    head, (projected, attention, features) = build(), make_inputs()
    batch, query = every_query()
    expected = head(projected, attention[batch, query], features, batch)
    some = torch.tensor([12, 3, 8, 0])
    masks = head(projected, attention[batch[some], query[some]], features, batch[some])
    torch.testing.assert_close(masks, expected[some], rtol=1e-4, atol=1e-4)


def test_no_queries_give_zero_gradients() -> None:
    """In a distributed step every worker's parameters must take part."""
    head, (projected, attention, features) = build(), make_inputs()
    none = torch.zeros(0, dtype=torch.int64)
    masks = head(projected, attention[none, none], features, none)
    assert masks.shape == (0, *SIZES[-1])
    masks.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in head.parameters())


def test_work_per_image_is_done_once() -> None:
    head, (projected, attention, features) = build(chunk_size=2), make_inputs()
    seen = []
    head.adapter3.register_forward_hook(lambda module, args, output: seen.append(output.shape))
    head(projected, attention[every_query()], features, every_query()[0])
    assert seen == [(B, DIM // 8, *SIZES[-1])]


def test_chunks_need_a_size() -> None:
    with pytest.raises(ValueError, match="MASK_CHUNK_SIZE is 0"):
        build(chunk_size=0)
