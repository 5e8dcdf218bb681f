"""Checkpoint files from one layout to another."""

import os
from collections.abc import Mapping
from typing import Any, Literal

import torch
from detectron2.utils.file_io import PathManager
from torch import Tensor

from ..files import whole_file
from .class_rows import to_category_ids, to_contiguous
from .layouts import recognise, unwrapped
from .layouts.d_fine import OFFICIAL_D_FINE
from .layouts.deformable import DEFORMABLE
from .layouts.detr import OFFICIAL
from .layouts.dino import DINO
from .layouts.layout import Layout, any_match
from .layouts.mask2former import OFFICIAL_MASK2FORMER
from .layouts.rt_detr import OFFICIAL_RT_DETR
from .names import TRAINING_ONLY, as_held, bare_state
from .reading import WeightsFrom, read_checkpoint
from .report import group_names

ClassIds = Literal["coco", "contiguous"]
Target = Literal["detr_d2", "official"]


def to_detr_d2(state: Mapping[str, Tensor], class_ids: ClassIds = "contiguous") -> dict[str, Any]:
    """A checkpoint in our layout from a state dict in any layout.

    Args:
        state: names of any layout -> tensors.
        class_ids: how the class head's rows are indexed in the result. "contiguous" re-indexes published COCO heads and
            keeps others; "coco" is by COCO category id.

    Returns:
        ``{"model": ..., "__author__": "detr_d2"}``; a backbone alone gets Detectron2's bare names and the flag with
        which Detectron2 finds their place in any model.

    Raises:
        ValueError: the layout is unknown, or "coco" was asked for and the head is not COCO's.
    """
    state = unwrapped(state)
    layout = _recognise(state)
    result = {key: value for key, value in layout.to_ours(state).items() if not layout.is_leftover(key)}
    if layout.scope == "backbone":
        return {"model": result, "__author__": "detr_d2", "matching_heuristics": True}
    if class_ids == "coco":
        result = to_category_ids(result)
    elif layout.coco_ids:
        result = to_contiguous(result)
    return {"model": as_held(result), "__author__": "detr_d2"}


def to_official(state: Mapping[str, Tensor], class_ids: ClassIds = "coco") -> dict[str, Any]:
    """A checkpoint in the official layout of its kind of DETR from a state dict in any layout of a whole model.

    Args:
        state: names of any layout -> tensors.
        class_ids: "coco" gives COCO's 80 classes their category ids (92 rows, 91 without no-object), its 133 panoptic
            ones theirs (251); "contiguous" keeps the rows, which are so in every Mask2Former, RT-DETR and D-FINE.

    Raises:
        ValueError: the layout is unknown or a backbone's, or "coco" was asked for and the head is not COCO's.
    """
    layout = _recognise(state)
    if layout.scope != "model":
        raise ValueError(f"These are weights of a {layout.name} alone; the official layout needs a whole DETR.")
    ours = bare_state(to_detr_d2(state, class_ids="contiguous")["model"])
    ours = {key: value for key, value in ours.items() if not key.startswith(TRAINING_ONLY)}
    if any(key.startswith("head.") for key in ours):
        raise ValueError("These are weights of an FCOS; the official layout is DETR's.")
    contiguous = {  # models whose classes are so everywhere, by names that they alone have
        r"^transformer\.query_feat\.": OFFICIAL_MASK2FORMER,
        r"^transformer\.decoder\.lqe\.": OFFICIAL_D_FINE,
        r"^encoder\.fpn_blocks\.": OFFICIAL_RT_DETR,
    }
    if found := next((layout for pattern, layout in contiguous.items() if any_match(pattern, ours)), None):
        return {"model": found.to_theirs(ours)}
    is_dino = any_match(r"\.ref_point_head\.", ours)
    target = DINO if is_dino else DEFORMABLE if any_match(r"\.sampling_offsets\.", ours) else OFFICIAL
    return {"model": target.to_theirs(to_category_ids(ours) if class_ids == "coco" else ours)}


def convert_checkpoint(
    source: str,
    target: str,
    *,
    to: Target = "detr_d2",
    class_ids: ClassIds | None = None,
    weights_from: WeightsFrom = "auto",
    half: bool = False,
    overwrite: bool = False,
) -> str:
    """Read a checkpoint of any layout and write it in another.

    Args:
        source: a file, or a URL or name that Detectron2's PathManager knows.
        target: the file to write; complete or not there.
        class_ids: see `to_detr_d2` and `to_official`; None: their defaults.
        weights_from: see `read_checkpoint`.
        half: write floating point numbers with 16 bits.
        overwrite: replace an existing ``target``.

    Returns:
        A line that says what was written.

    Raises:
        FileNotFoundError, FileExistsError, ValueError: with what is wrong and what to do.
    """
    if os.path.exists(target) and not overwrite:
        raise FileExistsError(f"{target} exists; pass --overwrite to replace it.")
    folder = os.path.dirname(target) or "."
    if not os.path.isdir(folder):
        raise FileNotFoundError(f"The folder {folder} of the output does not exist.")
    checkpoint = read_checkpoint(PathManager.get_local_path(source), weights_from)
    state = checkpoint["model"]
    convert = {"detr_d2": to_detr_d2, "official": to_official}[to]
    result = convert(state) if class_ids is None else convert(state, class_ids)
    if to == "detr_d2" and "dataset_metadata" in checkpoint:
        result["dataset_metadata"] = checkpoint["dataset_metadata"]  # the names of the classes
    if half:
        result["model"] = {key: _halved(key, torch.as_tensor(value)) for key, value in result["model"].items()}
    with whole_file(target) as partial:
        torch.save(result, partial)
    return f"{target}: {len(result['model'])} tensors in the layout of {to}, from {source} ({_recognise(state).name})."


def _halved(name: str, values: Tensor) -> Tensor:
    if not values.is_floating_point():
        return values
    half = values.half()
    if not torch.equal(half.isfinite(), values.isfinite()):
        raise ValueError(f"{name} holds numbers above 65504, which 16 bits do not: leave out --half.")
    return half


def _recognise(state: Mapping[str, Tensor]) -> Layout:
    layout = recognise(unwrapped(state))
    if layout is None:
        raise ValueError(
            f"The layout of these weights is unknown: {group_names(state, 4)}. Known are DETR, Deformable DETR and "
            "DINO in the layouts of the official releases, mmdetection and detr_d2, the first two in transformers', "
            "DETR in its Detectron2 wrapper's, DETR and DINO in detrex's, Mask2Former in the official release's, "
            "transformers' and mmdetection's, RT-DETR and D-FINE in the official releases' and transformers', FCOS in "
            "the original release's, AdelaiDet's and torchvision's, ResNets of torchvision, Detectron2, Caffe2 and "
            "RT-DETR, Swin Transformers of the official release and transformers, and HGNetV2."
        )
    return layout
