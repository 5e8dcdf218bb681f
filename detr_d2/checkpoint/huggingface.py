"""Hugging Face's folders: ``config.json``, ``model.safetensors``, ``preprocessor_config.json``; found, and written."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from detectron2.config import CfgNode
from torch import Tensor

from ..facts import num_classes_of
from ..files import read_json, refuse_special, whole_files
from .huggingface_config import (
    backbone_of,
    inexpressible_keys,
    kind_of_model,
    label_config,
    model_config,
    processor_config,
)
from .layouts.huggingface import to_hub
from .layouts.mask2former import HUGGINGFACE_MASK2FORMER
from .names import COUNTER, TRAINING_ONLY

CONFIG = "config.json"
# Of one folder the first counts, which cannot hold code.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PROCESSOR = "preprocessor_config.json"
MODEL_TYPES = ("detr", "deformable_detr", "mask2former")


def weights_in_folder(folder: str) -> str:
    """The file of weights in a folder that ``transformers`` or this package wrote.

    Raises:
        FileNotFoundError: it holds no ``config.json`` or no weights in one file.
        ValueError: ``config.json`` is unreadable or another model's.
    """
    config = os.path.join(folder, CONFIG)
    refuse_special(config)
    if not os.path.isfile(config):
        raise FileNotFoundError(
            f"{folder} is a folder without {CONFIG}, so it is not one of transformers: name the file of weights in it."
        )
    try:
        model_type = read_json(config)["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config} is not the config of a transformers model ({type(error).__name__}).") from error
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"{config} is of a {model_type!r} model; of transformers' models, {', '.join(MODEL_TYPES)} can be read."
        )
    found = [path for name in WEIGHTS if os.path.isfile(path := os.path.join(folder, name))]
    if not found:
        raise FileNotFoundError(f"{folder} holds a {CONFIG} but no weights: expected {' or '.join(WEIGHTS)}.")
    return found[0]


def check_expressible(cfg: CfgNode) -> None:
    """Raise a ValueError that names the keys where ``transformers`` has no model like that of ``cfg``."""
    refused = inexpressible_keys(cfg)
    if refused:
        raise ValueError(
            f"transformers' {cfg.MODEL.META_ARCHITECTURE} cannot be what this config says, because of "
            f"{', '.join(refused)}: its config.json has no such setting."
        )
    processor_config(cfg)  # refuses what it cannot say


def write_huggingface(
    cfg: CfgNode,
    state: Mapping[str, Tensor],
    folder: str | os.PathLike,
    *,
    class_names: Sequence[str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a model so that ``transformers`` opens it: by the class of its `AUTO_CLASSES`, such as
    ``AutoModelForObjectDetection.from_pretrained(folder)``, and ``AutoImageProcessor``.

    Classes keep their contiguous numbers. The files are whole or not there.

    Args:
        cfg: of the model.
        state: its state dict.
        folder: made if it is missing.
        class_names: of every class, in their order; None leaves ``LABEL_0``, ``LABEL_1``, ...
        overwrite: replace the files in a folder that holds them or others.

    Raises:
        ValueError: ``transformers`` cannot compute this model, see `check_expressible`; or the names are not as many as
            the classes.
        FileExistsError: the folder is not empty. OSError: it cannot be written.
    """
    from safetensors.torch import save_file  # only here: it takes long to import

    check_expressible(cfg)
    classes, key = num_classes_of(cfg)
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{key} is {classes}, but there are {len(class_names)} names of classes.")
    config = model_config(cfg) | (label_config(class_names) if class_names is not None else {})
    tensors = {
        key: value for key, value in state.items() if not (key.startswith(TRAINING_ONLY) or key.endswith(COUNTER))
    }
    tensors, kind = {key: value.cpu() for key, value in tensors.items()}, kind_of_model(cfg)
    if kind == "mask2former":
        tensors = {key: value.contiguous() for key, value in HUGGINGFACE_MASK2FORMER.to_theirs(tensors).items()}
    else:
        refine = kind == "deformable" and cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE
        tensors = to_hub(tensors, backbone_of(cfg), refine=refine)
    target = Path(folder)
    check_folder(target, overwrite=overwrite)
    with whole_files(target) as partial:
        save_file(tensors, partial / WEIGHTS[0], metadata={"format": "pt"})
        for name, content in ((CONFIG, config), (PROCESSOR, processor_config(cfg))):
            (partial / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Refuse a folder to write into, before any work. Changes nothing."""
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; name a folder to write.")
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise FileExistsError(f"{folder} exists and is not empty; pass --overwrite to replace the model in it.")
    if not folder.absolute().parent.is_dir():
        raise FileNotFoundError(f"The folder {folder.absolute().parent} of the output does not exist.")
