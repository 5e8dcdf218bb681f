"""Augmentations by name; DETR's, put together from Detectron2's transforms."""

import detectron2.data.transforms as T
from detectron2.config import CfgNode
from fvcore.common.registry import Registry

__all__ = [
    "AUGMENTATION_REGISTRY",
    "build_augmentation",
    "build_detr_augmentation",
    "build_large_scale_jitter",
    "squashed_size",
]

AUGMENTATION_REGISTRY = Registry("AUGMENTATION")
AUGMENTATION_REGISTRY.__doc__ = """
Augmentations, called as ``augmentation(cfg, is_train)`` for a list of Detectron2's; ``INPUT.AUGMENTATION`` names one.
"""

_output_shape = T.ResizeShortestEdge.get_output_shape


def _shape_with_area(*arguments: int) -> tuple[int, int]:
    """As Detectron2's, which rounds the short side of an image of 1 x 5000 pixels to 0, and then fails. In its place,
    so that its own mapper, and whoever else resizes, do as ours.
    """
    height, width = _output_shape(*arguments)
    return max(height, 1), max(width, 1)


T.ResizeShortestEdge.get_output_shape = staticmethod(_shape_with_area)

_FLIPS = ("horizontal", "vertical", "none")
_CROP_PROBABILITY = 0.5  # published


def build_augmentation(cfg: CfgNode, is_train: bool, default: str = "") -> list[T.Augmentation]:
    """The augmentations of one image, as the entry that ``INPUT.AUGMENTATION`` names, or else ``default``, gives them.

    Raises:
        ValueError: no augmentation of that name is registered; lists those that are.
    """
    name = cfg.INPUT.AUGMENTATION or default
    if name not in AUGMENTATION_REGISTRY:
        known = ", ".join(sorted(n for n, _ in AUGMENTATION_REGISTRY))
        raise ValueError(f"INPUT.AUGMENTATION is {name!r}; registered are {known}, and '' for the mapper's own.")
    return AUGMENTATION_REGISTRY.get(name)(cfg, is_train)


def squashed_size(cfg: CfgNode) -> tuple[int, int] | None:
    """(height, width) to which every image is resized in inference, whatever its shape; None where it keeps that."""
    augmentations = build_augmentation(cfg, is_train=False, default="build_detr_augmentation")
    sizes = [tuple(augmentation.shape) for augmentation in augmentations if isinstance(augmentation, T.Resize)]
    return sizes[-1] if sizes else None


@AUGMENTATION_REGISTRY.register()
def build_detr_augmentation(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """The augmentations of one image, in the order in which they apply.

    Training (Carion et al., ECCV 2020, section A.4): flip; then, with ``INPUT.CROP.ENABLED`` and probability 0.5,
    resize the short side to one of ``INPUT.MIN_SIZE_TRAIN_CROP`` and crop (``INPUT.CROP.TYPE``, ``INPUT.CROP.SIZE``);
    then resize the short side to one of ``INPUT.MIN_SIZE_TRAIN``, the long side at most ``INPUT.MAX_SIZE_TRAIN``.
    Since the last step is common to both, this is the published choice of "resize" or "resize, crop, resize".
    Inference: resize to ``INPUT.MIN_SIZE_TEST``, ``INPUT.MAX_SIZE_TEST``; nothing where ``MIN_SIZE_TEST`` is 0.

    The official resize truncates the long side to an integer, Detectron2's rounds it to the nearest: for about half of
    all shapes the image is one pixel longer here. Detectron2's rule is kept, so that all models that are compared
    see the same pixels; boxes are scaled by the sizes that result, so both are consistent in themselves.

    Raises:
        ValueError: if ``INPUT.RANDOM_FLIP`` is not one of "horizontal", "vertical" and "none".
    """
    if not is_train:
        return _test_resize(cfg)
    augmentations = flips(cfg)
    if cfg.INPUT.CROP.ENABLED:
        resize_and_crop = T.AugmentationList(
            [
                T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN_CROP, sample_style="choice"),
                T.RandomCrop(cfg.INPUT.CROP.TYPE, cfg.INPUT.CROP.SIZE),
            ]
        )
        augmentations.append(T.RandomApply(resize_and_crop, prob=_CROP_PROBABILITY))
    augmentations.append(
        T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MAX_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING)
    )
    return augmentations


@AUGMENTATION_REGISTRY.register()
def build_large_scale_jitter(cfg: CfgNode, is_train: bool) -> list[T.Augmentation]:
    """Flip; scale, so that the image fits in a square of ``INPUT.IMAGE_SIZE`` and then by a factor between
    ``INPUT.MIN_SCALE`` and ``MAX_SCALE``; cut that square out, or pad to it, with gray (Ghiasi et al., CVPR 2021).

    In inference as `build_detr_augmentation`, whose errors it raises.
    """
    if not is_train:
        return _test_resize(cfg)
    size = cfg.INPUT.IMAGE_SIZE
    scale = T.ResizeScale(cfg.INPUT.MIN_SCALE, cfg.INPUT.MAX_SCALE, size, size)
    return [*flips(cfg), scale, T.FixedSizeCrop((size, size), seg_pad_value=0)]  # no object in the padding


def _test_resize(cfg: CfgNode) -> list[T.Augmentation]:
    if cfg.INPUT.MIN_SIZE_TEST == 0:
        return []
    return [T.ResizeShortestEdge(cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST, "choice")]


def flips(cfg: CfgNode) -> list[T.Augmentation]:
    """What ``INPUT.RANDOM_FLIP`` asks for. Raises a ValueError where it is unknown."""
    direction = cfg.INPUT.RANDOM_FLIP
    if direction not in _FLIPS:
        raise ValueError(f"INPUT.RANDOM_FLIP is {direction!r}; it must be one of {', '.join(_FLIPS)}")
    if direction == "none":
        return []
    return [T.RandomFlip(horizontal=direction == "horizontal", vertical=direction == "vertical")]
