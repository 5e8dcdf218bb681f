"""A trained model into Hugging Face's layout."""

import logging
import os
from pathlib import Path

from detectron2.config import CfgNode

from ..checkpoint.class_names import class_names_of_weights
from ..checkpoint.huggingface import check_expressible, check_folder, write_huggingface
from ..checkpoint.huggingface_config import AUTO_CLASSES, kind_of_model
from ..facts import num_classes_of
from .trained_model import load_trained_model


def save_for_huggingface(cfg: CfgNode, folder: str | os.PathLike, *, overwrite: bool = False) -> str:
    """Write the model of ``cfg`` with the weights that ``MODEL.WEIGHTS`` names, in any layout, for ``transformers``.

    The names of the classes are those that the checkpoint was trained with (its ``dataset_metadata``), or else of
    the config's datasets.

    Returns:
        A line that says what was written, and how to open it.

    Raises:
        ValueError, OSError: see `write_huggingface` and `load_trained_model`.
    """
    check_expressible(cfg)
    check_folder(Path(folder), overwrite=overwrite)
    model = load_trained_model(cfg)
    num_classes, _ = num_classes_of(cfg)
    names = class_names_of_weights(cfg, num_classes)
    if names is None:
        logging.getLogger(__name__).warning("The names of the classes are unknown, so they are LABEL_0, LABEL_1, ...")
    written = write_huggingface(cfg, model.state_dict(), folder, class_names=names, overwrite=overwrite)
    return (
        f"{written}: {cfg.MODEL.META_ARCHITECTURE} with {num_classes} classes from {cfg.MODEL.WEIGHTS}; "
        f"open it with transformers.{AUTO_CLASSES[kind_of_model(cfg)]}.from_pretrained({str(written)!r})."
    )
