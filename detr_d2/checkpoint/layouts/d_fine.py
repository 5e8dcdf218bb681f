"""The layouts of D-FINE: the official release's, which DEIM and RT-DETRv4 share, and ``transformers``'."""

from .layout import Pairs


def huggingface_hgnet_pairs(theirs: str, ours: str = "backbone.") -> Pairs:
    """``transformers``' names of HGNetV2 after the prefix ``theirs``."""
    parts = (("convolution", ""), ("normalization", ".norm"), ("lab", ".affine"))
    return hgnet_pairs(f"{theirs}embedder.", f"{theirs}encoder.stages.", ours, parts)


def hgnet_pairs(stem: str, stages: str, ours: str, parts: tuple[tuple[str, str], ...]) -> Pairs:
    """Pairs of HGNetV2's convolutions, each with its ``parts``."""
    layers = ("layers.{i}", "layers.{i}.conv1", "layers.{i}.conv2", "aggregation.{i}")
    modules = [(f"{stem}{name}", f"stem.{name}") for name in ("stem1", "stem2a", "stem2b", "stem3", "stem4")]
    for i in range(4):
        modules.append((f"{stages}{i}.downsample", f"res{i + 2}.downsample"))
        modules += [(f"{stages}{i}.blocks.{{i}}.{name}", f"res{i + 2}.blocks.{{i}}.{name}") for name in layers]
    return tuple(
        (f"{their}.{part}.{{p}}", f"{ours}{our}{inner}.{{p}}") for their, our in modules for part, inner in parts
    )
