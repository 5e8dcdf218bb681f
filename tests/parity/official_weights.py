"""Random DETR weights in the layout of the published checkpoints.

Every tensor gets values far from its initialisation, frozen norms and biases included, so that a tensor that is lost,
swapped or transposed on its way into a model shows in the outputs. Names and shapes are written down here rather
than asked from our model.
"""

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

C, FEED_FORWARD, QUERIES, LAYERS = 256, 2048, 100, 6
# COCO category ids run to 90; the row after them is "no object".
CLASS_ROWS = 92
# Standard deviations of outputs for inputs of one. Sharp attention keeps cells and queries from becoming their mean.
GAINS = {"in_proj_weight": 1.25, "out_proj": 0.35, "linear2": 0.35, "class_embed": 2.0, "bbox_embed.layers.2": 3.0}


def official_state_dict(depth: int, *, learned_positions: bool = False, seed: int = 0) -> dict[str, Tensor]:
    """The ``"model"`` entry of a published checkpoint of a box DETR with a ResNet of ``depth`` layers."""
    generator = torch.Generator().manual_seed(seed)
    shapes = transformer_shapes() | head_shapes()
    if learned_positions:
        shapes |= {f"backbone.1.{axis}_embed.weight": (50, C // 2) for axis in ("row", "col")}
    return random_backbone(depth, generator) | {k: random_values(k, v, generator) for k, v in shapes.items()}


def random_backbone(depth: int, generator: torch.Generator, **shape: int) -> dict[str, Tensor]:
    """torchvision's ResNet whose norms hold the statistics of random images, as a trained one's do.

    With statistics of any other kind, the deep features of all cells become the same. ``shape``: torchvision's further
    arguments.
    """
    with torch.device("meta"):
        body = getattr(torchvision.models, f"resnet{depth}")(**shape)
    body = body.to_empty(device="cpu").train()
    for name, parameter in body.named_parameters():
        parameter.data = random_values(name, parameter.shape, generator)
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the statistics become those of the one batch below
    with torch.no_grad():
        body(torch.stack([random_image((160, 160), generator) for _ in range(2)]) / 64 - 2)
    return {
        f"backbone.0.body.{name}": value.clone()
        for name, value in body.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }


def random_image(size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """3 x h x w, 0..255: coarse structure and noise."""
    coarse = torch.rand(1, 3, 5, 5, generator=generator)
    noise = torch.rand(3, *size, generator=generator)
    return (180 * F.interpolate(coarse, size=size, mode="bicubic").clamp(0, 1)[0] + 75 * noise).floor()


def transformer_shapes() -> dict[str, tuple[int, ...]]:
    shapes = norm_shapes("transformer.decoder.norm")
    for i in range(LAYERS):
        for stack, attentions in (("encoder", ["self_attn"]), ("decoder", ["self_attn", "multihead_attn"])):
            layer = f"transformer.{stack}.layers.{i}"
            for attention in attentions:
                shapes |= {
                    f"{layer}.{attention}.in_proj_weight": (3 * C, C),
                    f"{layer}.{attention}.in_proj_bias": (3 * C,),
                }
                shapes |= linear_shapes(f"{layer}.{attention}.out_proj", C, C)
            shapes |= linear_shapes(f"{layer}.linear1", C, FEED_FORWARD)
            shapes |= linear_shapes(f"{layer}.linear2", FEED_FORWARD, C)
            for n in range(len(attentions) + 1):
                shapes |= norm_shapes(f"{layer}.norm{n + 1}")
    return shapes


def head_shapes() -> dict[str, tuple[int, ...]]:
    shapes = {
        "input_proj.weight": (C, 2048, 1, 1),
        "input_proj.bias": (C,),
        "query_embed.weight": (QUERIES, C),
    }
    shapes |= linear_shapes("class_embed", C, CLASS_ROWS)
    for i, out in enumerate((C, C, 4)):
        shapes |= linear_shapes(f"bbox_embed.layers.{i}", C, out)
    return shapes


def linear_shapes(name: str, inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def norm_shapes(name: str) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (C,), f"{name}.bias": (C,)}


def random_values(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Values that keep activations near one through every layer, and the queries' outputs apart."""
    normal = torch.randn(shape, generator=generator)
    uniform = torch.rand(shape, generator=generator)
    if name == "query_embed.weight":
        return 2 * normal
    if len(shape) > 1 and name.startswith("backbone.1."):
        return uniform
    if len(shape) > 1:
        gain = next((value for part, value in GAINS.items() if part in name), 1.0)
        return normal * gain / normal[0].numel() ** 0.5
    if name.endswith("weight"):  # of a norm; the last of a residual block is small, which keeps rounding errors small
        return (0.5 + uniform) * (0.15 if "bn3" in name else 1.0)
    return 0.1 * normal
