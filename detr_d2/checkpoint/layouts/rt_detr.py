"""The layouts of RT-DETR: the official release's and ``transformers``'."""

from .layout import Pairs


def huggingface_vd_pairs(theirs: str, ours: str = "backbone.") -> Pairs:
    """``transformers``' names of RT-DETR's ResNet after the prefix ``theirs``."""
    modules = [(f"embedder.embedder.{i}", f"stem.conv{i + 1}") for i in range(3)]
    for i in range(4):
        their, our = f"encoder.stages.{i}.layers.{{i}}.", f"res{i + 2}.{{i}}."
        modules += [(f"{their}layer.{n}", f"{our}conv{n + 1}") for n in range(3)]
        modules.append((f"{their}shortcut{'.1' if i else ''}", f"{our}shortcut"))
    return normed_pairs(modules, theirs, ours, ("convolution", "normalization"))


def normed_pairs(
    modules: list[tuple[str, str]], theirs: str = "", ours: str = "", parts: tuple[str, str] = ("conv", "norm")
) -> Pairs:
    """Pairs of convolutions with a norm each: theirs has both as ``parts``, ours the norm within the convolution."""
    return tuple(
        (f"{theirs}{their}.{part}.{{p}}", f"{ours}{our}{inner}.{{p}}")
        for their, our in modules
        for part, inner in zip(parts, ("", ".norm"), strict=True)
    )
