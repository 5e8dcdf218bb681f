"""From a command line to a cfg that fits this machine."""

import difflib
import io
import logging
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.utils.file_io import PathManager

from ..checkpoint.published import get_config_file
from ..config import add_detr_d2_config
from ..data import register_datasets
from ..data.datasets.custom import custom_datasets
from ..facts import FOLLOW_DATASET, class_keys_for, value_of
from ..files import refuse_special


def load_config(config_file: str = "", opts: Sequence[str] = ()) -> CfgNode:
    """Detectron2's defaults, this package's keys, a yaml file, then ``KEY VALUE`` overrides.

    The datasets of ``DATASETS.CUSTOM`` are registered, their paths made absolute, and the number of classes follows the
    data; see `follow_dataset`.

    Raises:
        ValueError: a key that does not exist (with the closest ones that do), a value of another type, a malformed
            entry of ``DATASETS.CUSTOM``, or a file that asks for code to be run.
        FileNotFoundError: ``config_file`` does not exist.
    """
    cfg = _default_config()
    known = list(key_names(cfg))
    config_file = found_config(config_file)
    if len(opts) % 2:
        raise ValueError(f"Overrides come as KEY VALUE pairs, got an odd number of words: {' '.join(opts)}")
    for key in opts[::2]:
        if key not in known:
            raise ValueError(unknown_key_message(key, "the command line", known))
    if config_file:
        cfg = _merged(cfg, config_file, known)
    cfg.merge_from_list(list(opts))
    if "DATASETS.CUSTOM" not in opts[::2] and not _takes_urls(config_file):
        _refuse_remote_datasets(cfg, config_file)
    cfg.DATASETS.CUSTOM = [dataset.as_entry() for dataset in custom_datasets(cfg)]
    register_datasets(cfg)
    follow_dataset(cfg, opts[::2])
    return cfg


def found_config(config_file: str) -> str:
    """The config itself, or where there is no such file the one that the package holds under this name, with or without
    ``configs/`` before it and its suffix behind it.

    Raises:
        FileNotFoundError: neither is there.
    """
    if not config_file or os.path.isfile(config_file) or "://" in config_file:
        return config_file
    try:
        return get_config_file(config_file.removeprefix("configs/"))
    except FileNotFoundError:
        raise FileNotFoundError(f"Config file {config_file!r} does not exist.") from None


# Far more than the config of a training has; a file of twice as many nodes takes seconds to read.
_MAX_TEXT, _MAX_NODES, _MAX_DEPTH, _MAX_FILES = 500_000, 5_000, 50, 50


def _merged(cfg: CfgNode, config_file: str, known: Sequence[str]) -> CfgNode:
    """The cfg with what a yaml file says, and the files that it builds on."""
    takes_urls, opened = _takes_urls(config_file), []

    class Reader(CfgNode):
        @classmethod
        def _open_cfg(cls, filename: str) -> io.StringIO:
            if "://" in filename and not takes_urls:
                raise ValueError(
                    f"its _BASE_ is {filename}: a config that came with weights takes nothing from the network. "
                    "Download that file, and name it"
                )
            opened.append(filename)
            if len(opened) > _MAX_FILES:
                raise RecursionError
            return _bounded_yaml(filename)

    reader = Reader(cfg)
    try:
        reader.merge_from_file(config_file, allow_unsafe=False)
    except KeyError as error:  # yacs: "Non-existent config key: NAME"
        key = str(error.args[0]).rsplit(maxsplit=1)[-1]
        raise ValueError(unknown_key_message(key, config_file, known)) from error
    except RecursionError:
        raise ValueError(f"{config_file} is no yaml config: its _BASE_ leads back to itself.") from None
    except Exception as error:  # a file of another kind fails at any place
        raise ValueError(f"{config_file} is no yaml config: {_described(error)}.") from None
    return CfgNode(reader)


def _takes_urls(config_file: str) -> bool:
    """Whether a config may name what is fetched: not one that lies beside weights, and is a stranger's."""
    if not config_file or "://" in config_file:
        return True
    names = os.listdir(os.path.dirname(config_file) or ".")
    return not any(name.endswith((".pth", ".pkl", ".pyth", ".bin", ".safetensors")) for name in names)


def _refuse_remote_datasets(cfg: CfgNode, config_file: str) -> None:
    """Classes are read from the files of ``DATASETS.CUSTOM`` as soon as a config is loaded."""
    for dataset in custom_datasets(cfg):
        for file in dataset[1:]:
            if "://" in file:
                raise ValueError(
                    f"{config_file} names {file} in DATASETS.CUSTOM: a config that came with weights takes nothing "
                    "from the network. Download that file and give DATASETS.CUSTOM on the command line, or "
                    "DATASETS.CUSTOM [] where its data is not needed."
                )


def _bounded_yaml(filename: str) -> io.StringIO:
    """The content of a yaml file that is neither large, nor deep, nor becomes so by its aliases."""
    path = PathManager.get_local_path(filename)
    refuse_special(path)
    with open(path, encoding="utf-8-sig") as file:
        stream = io.StringIO(file.read(_MAX_TEXT))
        is_small = not file.read(1)
    stream.name = filename  # for yaml's messages
    sizes: dict[str | None, int] = {}  # of what an anchor names, with all that its aliases stand for
    inside: list[tuple[str | None, int]] = [(None, 0)]  # anchors and sizes of the nodes that are not at their end
    for event in yaml.parse(stream, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        anchor, size = getattr(event, "anchor", None), 1
        if isinstance(event, yaml.CollectionStartEvent):
            inside.append((anchor, 0))
            sizes[anchor] = _MAX_NODES  # inside of itself it has no end
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = inside.pop()
        elif isinstance(event, yaml.AliasEvent):
            size += sizes.get(anchor, 0)
        if not isinstance(event, yaml.CollectionStartEvent):
            sizes[anchor] = size
        inside[-1] = inside[-1][0], inside[-1][1] + size
        if not is_small or len(inside) > _MAX_DEPTH or inside[-1][1] > _MAX_NODES:
            raise ValueError(f"{filename} is larger or deeper than any config")
    stream.seek(0)
    return stream


def _described(error: Exception) -> str:
    """What is wrong and where, without the lines of the file: a ``_BASE_`` may name any file of the machine."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
    mark = error.problem_mark
    place = f" ({mark.name}, line {mark.line + 1})" if mark else ""
    if isinstance(error, yaml.constructor.ConstructorError):
        return f"it asks for something that could run code{place}; write the value itself"
    problem = re.sub(r"(['\"]).+\1", "...", error.problem or error.context or "")  # names in the file
    return f"{problem}{place}"


# Detectron2's Base-RetinaNet.yaml lets Python compute its anchors. No other expression of a file is evaluated.
_RETINANET_SIZES = "[[x, x * 2**(1.0/3), x * 2**(2.0/3) ] for x in [32, 64, 128, 256, 512 ]]"


def _retinanet_sizes(loader: yaml.SafeLoader, node: yaml.Node) -> list[list[float]]:
    if not isinstance(node, yaml.SequenceNode) or [part.value for part in node.value] != [_RETINANET_SIZES]:
        return loader.construct_undefined(node)
    return [[x, x * 2 ** (1.0 / 3), x * 2 ** (2.0 / 3)] for x in (32, 64, 128, 256, 512)]


yaml.SafeLoader.add_constructor("tag:yaml.org,2002:python/object/apply:eval", _retinanet_sizes)


def _default_config() -> CfgNode:
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    return cfg


def follow_dataset(cfg: CfgNode, overridden: Sequence[str] = ()) -> None:
    """Set the keys of the model that depend on the classes to those of ``DATASETS.TRAIN[0]``, in place.

    A number of classes of `FOLLOW_DATASET` follows every dataset whose classes are known. Other keys (the numbers of
    classes of Detectron2's own models, the ids of things) follow a dataset of ``DATASETS.CUSTOM`` while they have their
    default. Any other value is meant; the loaders then check that it agrees.

    Args:
        overridden: keys that the command line sets, whose values are meant even where they are the default.
    """
    train = cfg.DATASETS.TRAIN[0] if cfg.DATASETS.TRAIN else ""
    if train not in DatasetCatalog:
        return
    is_own = train in {dataset.name for dataset in custom_datasets(cfg)}
    defaults = _default_config()
    for key, value in class_keys_for(cfg, train).items():
        present = value_of(cfg, key)
        is_default = key not in overridden and present == value_of(defaults, key)
        if present == FOLLOW_DATASET or (is_own and is_default):
            cfg.merge_from_list([key, value])


def prepare_device(cfg: CfgNode, processes_per_machine: int = 1) -> None:
    """Fall back to the CPU where ``MODEL.DEVICE`` asks for a GPU and there is none, in place, and share the CPU's cores
    between processes.

    Raises:
        ValueError: a device that this machine does not have; several CPU processes on a machine with GPUs, whose
            communication would go through the GPUs.
    """
    name, count = cfg.MODEL.DEVICE, torch.cuda.device_count()
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"{name!r} is no device: name one such as cpu, cuda or cuda:1 in MODEL.DEVICE.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        logging.getLogger(__name__).warning("No GPU is available: MODEL.DEVICE is set to cpu.")
        cfg.MODEL.DEVICE = "cpu"
    elif device.type == "cuda":
        if device.index is not None and device.index >= count:
            raise ValueError(f"MODEL.DEVICE is {name}, but this machine has {count} GPUs: cuda:0 to cuda:{count - 1}.")
    else:
        try:
            torch.zeros(1).to(device).cpu()
        except (RuntimeError, NotImplementedError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"MODEL.DEVICE is {name}, which this machine does not have: {reason}.") from error
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
    key = key[:100]
    same_leaf = [name for name in known if name.rsplit(".", 1)[-1] == key.rsplit(".", 1)[-1]]
    close = same_leaf[:3] or difflib.get_close_matches(key, known, n=3, cutoff=0.7)
    return f"There is no config key {key} ({where}){'; did you mean ' + ' or '.join(close) + '?' if close else '.'}"
