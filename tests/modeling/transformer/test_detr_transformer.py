import pytest
import torch
from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.nn import functional as F

from detr_d2.modeling.transformer import DetrTransformer, build_transformer
from detr_d2.modeling.transformer.detr_transformer import Decoder, Encoder

C, HEADS, FEED_FORWARD, QUERIES, LAYERS = 32, 4, 48, 7, 3


def initial(pre_norm: bool = False, dropout: float = 0.0) -> DetrTransformer:
    layer = {"dim": C, "num_heads": HEADS, "dim_feedforward": FEED_FORWARD, "dropout": dropout, "pre_norm": pre_norm}
    return DetrTransformer(encoder=Encoder(2, **layer), decoder=Decoder(LAYERS, **layer))


def build(pre_norm: bool = False, dropout: float = 0.0) -> DetrTransformer:
    """A small transformer with every parameter away from its initial value."""
    torch.manual_seed(0)
    model = initial(pre_norm, dropout)
    for parameter in model.parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, mean=float((parameter == 1).all()), std=0.2)
    return model


def make_inputs(sizes: list[tuple[int, int]], height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features, positions, the padding mask (True = padding) and query positions."""
    torch.manual_seed(1)
    mask = torch.ones(len(sizes), height, width, dtype=torch.bool)
    for i, (h, w) in enumerate(sizes):
        mask[i, :h, :w] = False
    shape = (len(sizes), C, height, width)
    return torch.randn(shape), torch.randn(shape), mask, torch.randn(QUERIES, C)


def torch_attention(module: nn.Module) -> nn.MultiheadAttention:
    attention = nn.MultiheadAttention(C, HEADS, batch_first=True)
    attention.load_state_dict(module.state_dict(), strict=True)
    return attention


def residual(x: Tensor, norm: nn.Module, block, pre_norm: bool) -> Tensor:
    return x + block(norm(x)) if pre_norm else norm(x + block(x))


def reference_forward(model: DetrTransformer, inputs: tuple[Tensor, ...], pre_norm: bool) -> tuple[Tensor, Tensor]:
    """DETR's transformer on ``nn.MultiheadAttention``: hidden states L x B x Q x C and memory B x N x C."""
    features, pos, mask, query_embed = inputs
    x, pos, padding = features.flatten(2).mT, pos.flatten(2).mT, mask.flatten(1)

    def feed_forward(layer: nn.Module):
        return lambda x: layer.linear2(F.relu(layer.linear1(x)))

    for layer in model.encoder.layers:
        attention = torch_attention(layer.self_attn)
        x = residual(
            x,
            layer.norm1,
            lambda y, a=attention: a(y + pos, y + pos, y, key_padding_mask=padding, need_weights=False)[0],
            pre_norm,
        )
        x = residual(x, layer.norm2, feed_forward(layer), pre_norm)
    memory = model.encoder.norm(x) if pre_norm else x

    query_pos = query_embed.expand(len(features), -1, -1)
    x, outputs = torch.zeros_like(query_pos), []
    for layer in model.decoder.layers:
        own, cross = torch_attention(layer.self_attn), torch_attention(layer.multihead_attn)
        x = residual(x, layer.norm1, lambda y, a=own: a(y + query_pos, y + query_pos, y)[0], pre_norm)
        x = residual(
            x,
            layer.norm2,
            lambda y, a=cross: a(y + query_pos, memory + pos, memory, key_padding_mask=padding)[0],
            pre_norm,
        )
        x = residual(x, layer.norm3, feed_forward(layer), pre_norm)
        outputs.append(model.decoder.norm(x))
    return torch.stack(outputs), memory


@pytest.mark.parametrize("pre_norm", [False, True])
def test_equals_an_implementation_on_torchs_attention(pre_norm: bool) -> None:
    model = build(pre_norm)
    features, pos, mask, query_embed = inputs = make_inputs([(4, 6), (3, 2)], 4, 6)
    output = model(features, pos, mask, query_embed, all_layers=True)
    hidden, memory = reference_forward(model, inputs, pre_norm)
    assert output[0].shape == (LAYERS, 2, QUERIES, C)
    torch.testing.assert_close(output[0], hidden, atol=1e-5, rtol=1e-4)
    valid = ~mask.flatten(1)
    torch.testing.assert_close(output[1][valid], memory[valid], atol=1e-5, rtol=1e-4)


def torch_layer(kind: type[nn.Module], ours: nn.Module, pre_norm: bool) -> nn.Module:
    layer = kind(C, HEADS, FEED_FORWARD, dropout=0.0, batch_first=True, norm_first=pre_norm)
    layer.load_state_dict(ours.state_dict(), strict=True)
    return layer


@pytest.mark.parametrize("pre_norm", [False, True])
def test_layers_without_positions_equal_torchs(pre_norm: bool) -> None:
    """``nn.TransformerEncoderLayer`` and ``DecoderLayer`` have the same parameters, and no positions."""
    model = build(pre_norm)
    encoder, decoder = model.encoder.layers[0], model.decoder.layers[0]
    memory, x, zero = torch.randn(2, 9, C), torch.randn(2, QUERIES, C), torch.zeros(())
    padding = torch.arange(9)[None] >= torch.tensor([[9], [4]])
    allowed = ~padding[:, None, None]
    expected = torch_layer(nn.TransformerEncoderLayer, encoder, pre_norm)(memory, src_key_padding_mask=padding)
    torch.testing.assert_close(encoder(memory, zero, allowed), expected, atol=1e-5, rtol=1e-4)
    reference = torch_layer(nn.TransformerDecoderLayer, decoder, pre_norm)
    expected = reference(x, memory, memory_key_padding_mask=padding)
    torch.testing.assert_close(decoder(x, zero, memory, memory, allowed), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("pre_norm", [False, True])
def test_padded_cells_have_no_influence(pre_norm: bool) -> None:
    """A feature map alone, and in a larger one whose padding holds large values: features and positions alike."""
    model = build(pre_norm).eval()
    features, pos, _, query_embed = make_inputs([(3, 5)], 3, 5)
    alone = model(features, pos, None, query_embed, all_layers=True)
    mask = torch.ones(1, 5, 9, dtype=torch.bool)
    mask[:, :3, :5] = False
    garbage = [F.pad(x, (0, 4, 0, 2), value=1e3) for x in (features, pos)]
    padded = model(*garbage, mask, query_embed, all_layers=True)
    torch.testing.assert_close(padded[0], alone[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(padded[1].unflatten(1, (5, 9))[:, :3, :5].flatten(1, 2), alone[1], atol=1e-5, rtol=0)

    unmasked = model(*garbage, None, query_embed, all_layers=True)
    assert (unmasked[0] - alone[0]).abs().max() > 0.1


def test_padded_cells_get_no_gradient_from_the_queries() -> None:
    model = build()
    features, pos, mask, query_embed = make_inputs([(4, 6), (3, 2)], 4, 6)
    features.requires_grad_()
    model(features, pos, mask, query_embed, all_layers=True)[0].square().sum().backward()
    where = features.grad.abs().sum(1) > 0
    assert torch.equal(where, ~mask)


def test_no_mask_equals_a_mask_without_padding() -> None:
    model = build()
    features, pos, mask, query_embed = make_inputs([(4, 6)] * 2, 4, 6)
    expected = model(features, pos, mask, query_embed, all_layers=True)
    torch.testing.assert_close(model(features, pos, None, query_embed, all_layers=True), expected, atol=1e-5, rtol=1e-4)


def test_last_layer_alone() -> None:
    model = build()
    features, pos, mask, query_embed = make_inputs([(4, 6), (3, 2)], 4, 6)
    every = model(features, pos, mask, query_embed, all_layers=True)
    last = model(features, pos, mask, query_embed, all_layers=False)
    assert last[0].shape == (1, 2, QUERIES, C)
    torch.testing.assert_close(last[0], every[0][-1:])


def test_inputs_are_not_changed() -> None:
    inputs = make_inputs([(4, 6), (3, 2)], 4, 6)
    before = [x.clone() for x in inputs]
    build()(*inputs, all_layers=True)
    assert all(torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_dropout_in_training_only() -> None:
    model, without = build(dropout=0.5), build()
    inputs = make_inputs([(4, 6)], 4, 6)
    expected = without(*inputs, all_layers=True)[0]
    assert not torch.allclose(model(*inputs, all_layers=True)[0], expected, atol=0.1)
    torch.testing.assert_close(model.eval()(*inputs, all_layers=True)[0], expected)


def test_gradients_reach_every_parameter_but_the_dead_ones() -> None:
    """Queries start at zero, so that the first self-attention among them moves nothing but its biases."""
    model = build()
    model(*make_inputs([(4, 6)], 4, 6), all_layers=True)[0].pow(3).sum().backward()
    dead = {name for name, p in model.named_parameters() if p.grad.abs().max() < 1e-4}
    assert dead == {"decoder.layers.0.self_attn.in_proj_weight"}


@pytest.mark.parametrize("pre_norm", [False, True])
def test_final_norms_and_names(pre_norm: bool) -> None:
    names = build(pre_norm).state_dict()
    assert ("encoder.norm.weight" in names) == pre_norm
    assert "decoder.norm.weight" in names
    assert "encoder.layers.1.self_attn.in_proj_weight" in names
    assert "decoder.layers.2.multihead_attn.out_proj.bias" in names


def test_matrices_start_xavier_uniform() -> None:
    model = initial()
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            bound = (6 / sum(parameter.shape)) ** 0.5
            assert 0.9 * bound < parameter.abs().max() <= bound, name


def test_built_from_cfg(small_detr_cfg: CfgNode) -> None:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.PRE_NORM, cfg.MODEL.DETR.DROPOUT = True, 0.3
    model = build_transformer(cfg)
    assert (model.dim, len(model.encoder.layers), len(model.decoder.layers)) == (32, 2, 3)
    layer = model.decoder.layers[0]
    assert (layer.self_attn.num_heads, layer.linear1.out_features) == (4, 64)
    assert (layer.dropout.p, layer.multihead_attn.dropout, layer.pre_norm) == (0.3, 0.3, True)


def test_unknown_name(small_detr_cfg: CfgNode) -> None:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.DETR.TRANSFORMER = "DetrTransfomer"
    with pytest.raises(KeyError, match="DetrTransfomer"):
        build_transformer(cfg)
