"""From a command line to a cfg that fits this machine."""

import difflib
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg

from ..config import add_detr_d2_config
from ..data import class_keys_for, register_datasets
from ..data.datasets.custom import custom_datasets


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, this package's keys, a yaml file, then ``KEY VALUE`` overrides.

    The data sets of ``DATASETS.CUSTOM`` are registered, their paths made absolute, and where the model is trained on
    one of them, its number of classes follows; see `follow_dataset`.

    Raises:
        ValueError: a key that does not exist (with the closest ones that do), a value of another type, or a malformed
            entry of ``DATASETS.CUSTOM``.
        FileNotFoundError: ``config_file`` does not exist.
    """
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    known = list(key_names(cfg))
    if config_file and not os.path.isfile(config_file) and "://" not in config_file:
        raise FileNotFoundError(f"Config file {config_file!r} does not exist.")
    if len(opts) % 2:
        raise ValueError(f"Overrides come as KEY VALUE pairs, got an odd number of words: {' '.join(opts)}")
    for key in opts[::2]:
        if key not in known:
            raise ValueError(unknown_key_message(key, "the command line", known))
    if config_file:
        try:
            cfg.merge_from_file(config_file)
        except KeyError as error:  # yacs: "Non-existent config key: NAME"
            key = str(error.args[0]).rsplit(maxsplit=1)[-1]
            raise ValueError(unknown_key_message(key, config_file, known)) from error
        except (yaml.YAMLError, AssertionError, UnicodeDecodeError, AttributeError) as error:
            raise ValueError(f"{config_file} is no yaml config: {error}") from error
    cfg.merge_from_list(list(opts))
    cfg.DATASETS.CUSTOM = [dataset.as_entry() for dataset in custom_datasets(cfg)]
    register_datasets(cfg)
    if cfg.DATASETS.CUSTOM:
        follow_dataset(cfg, [*(file_keys(config_file) if config_file else ()), set(opts[::2])])
    return cfg


def follow_dataset(cfg: CfgNode, layers: Sequence[set[str]]) -> None:
    """Set the keys of the model that depend on the classes to those of ``DATASETS.TRAIN[0]``, in place, if that is one
    of ``DATASETS.CUSTOM``.

    A key that is set where ``DATASETS.TRAIN`` is, or later, is meant for this data and stays: loaders then check that
    it agrees. One that was set before, such as a base file's for COCO, is not.

    Args:
        layers: the names of the keys that each file and the command line set, from the first to the last.
    """
    train = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    if train not in {dataset.name for dataset in custom_datasets(cfg)}:
        return
    place = max((i for i, keys in enumerate(layers) if "DATASETS.TRAIN" in keys), default=0)
    stated = set().union(*layers[place:])
    for key, value in class_keys_for(cfg, train).items():
        if key not in stated:
            cfg.merge_from_list([key, value])


def file_keys(config_file: str) -> list[set[str]]:
    """The full names of the keys that a yaml file's bases and then the file itself set, each in a set of its own."""
    with CfgNode._open_cfg(config_file) as file:
        content = yaml.unsafe_load(file) or {}  # as merge_from_file does, which has read it before
    bases = content.pop("_BASE_", [])
    layers = []
    for base in [bases] if isinstance(bases, str) else bases:
        base = os.path.expanduser(base)
        is_relative = "://" not in base and not os.path.isabs(base)
        layers += file_keys(os.path.join(os.path.dirname(config_file), base) if is_relative else base)
    return [*layers, set(key_names(content))]


def prepare_device(cfg: CfgNode, processes_per_machine: int = 1) -> None:
    """Fall back to the CPU where ``MODEL.DEVICE`` asks for a GPU that is not there, in place, and share the CPU's cores
    between processes.

    Raises:
        ValueError: several CPU processes on a machine with GPUs, whose communication would go through the GPUs.
    """
    if cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("No GPU is available: MODEL.DEVICE is set to cpu.")
        cfg.MODEL.DEVICE = "cpu"
    if cfg.MODEL.DEVICE == "cpu" and processes_per_machine > 1:
        if torch.cuda.is_available():
            raise ValueError(
                "Several processes with MODEL.DEVICE cpu on a machine with GPUs: set CUDA_VISIBLE_DEVICES=''."
            )
        # Processes that each start a thread per core slow each other down many times over.
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes_per_machine)))


def key_names(cfg: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Every key of a cfg, or of what a yaml file holds, by its full dotted name."""
    names = []
    for name, value in cfg.items():
        names += key_names(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [prefix + name]
    return names


def unknown_key_message(key: str, where: str, known: Sequence[str]) -> str:
    """What to say of a key that does not exist, with up to three that it may be a misspelling of."""
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = same_leaf[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.7)
    return f"There is no config key {key} ({where}){'; did you mean ' + ' or '.join(close) + '?' if close else '.'}"
