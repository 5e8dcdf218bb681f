"""Finding the weights in a folder in Hugging Face's layout."""

import json
import os
from pathlib import Path

CONFIG = "config.json"
# Of one folder the first counts, which cannot hold code.
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
MODEL_TYPES = ("detr", "deformable_detr")


def weights_in_folder(folder: str) -> str:
    """The file of weights in a folder that ``transformers`` or this package wrote.

    Raises:
        FileNotFoundError: it holds no ``config.json`` or no weights in one file.
        ValueError: ``config.json`` is unreadable or another model's.
    """
    config = os.path.join(folder, CONFIG)
    if not os.path.isfile(config):
        raise FileNotFoundError(
            f"{folder} is a folder without {CONFIG}, so it is not one of transformers: name the file of weights in it."
        )
    try:
        model_type = json.loads(Path(config).read_text())["model_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{config} is not the config of a transformers model ({type(error).__name__}).") from error
    if model_type not in MODEL_TYPES:
        raise ValueError(
            f"{config} is of a {model_type!r} model; of transformers' models, {' and '.join(MODEL_TYPES)} can be read."
        )
    found = [path for name in WEIGHTS if os.path.isfile(path := os.path.join(folder, name))]
    if not found:
        raise FileNotFoundError(f"{folder} holds a {CONFIG} but no weights: expected {' or '.join(WEIGHTS)}.")
    return found[0]
