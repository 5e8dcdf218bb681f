"""What is compared: a config with weights, or the output folder of a training."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from torch import nn

from ..checkpoint.huggingface import weights_in_folder
from ..data.checks import check_dataset_name, readable_annotations
from ..engine import load_config, load_trained_model, prepare_device


@dataclass(frozen=True)
class ComparedModel:
    """One column of the table.

    Attributes:
        label: its name in the table and of its folder.
        config_file: the yaml, or the ``config.yaml`` of a training.
        cfg: frozen; ``MODEL.WEIGHTS`` names its weights, "" for random ones.
        dataset: the registered name of the images that it is evaluated on.
        metrics_file: the training's ``metrics.json``; None where there is none.
    """

    label: str
    config_file: Path
    cfg: CfgNode = field(repr=False)
    dataset: str
    metrics_file: Path | None = None

    @cached_property
    def config_hash(self) -> str:
        """The hash of every key but those that change neither what a model computes nor how it is trained."""
        cfg = self.cfg.clone()
        cfg.defrost()
        del cfg["OUTPUT_DIR"], cfg["VIS_PERIOD"], cfg["VERSION"], cfg.MODEL["WEIGHTS"]
        return hashlib.sha256(cfg.dump().encode()).hexdigest()[:16]

    @cached_property
    def weights_hash(self) -> str:
        """The hash of the file's content; "random" where there is none."""
        if not self.cfg.MODEL.WEIGHTS:
            return "random"
        with open(_local_weights(self.cfg.MODEL.WEIGHTS, self.label), "rb") as file:
            digest = hashlib.sha256()
            for block in iter(lambda: file.read(2**20), b""):
                digest.update(block)
        return digest.hexdigest()[:16]

    @property
    def hashes(self) -> dict[str, str]:
        """What every figure of the model depends on."""
        return {"config": self.config_hash, "weights": self.weights_hash}

    def build(self) -> nn.Module:
        """The model with its weights, in evaluation mode.

        Raises:
            ValueError: the weights leave a part of the model at its initial values.
        """
        if self.cfg.MODEL.WEIGHTS:
            return load_trained_model(self.cfg)
        torch.manual_seed(max(0, self.cfg.SEED))
        return build_model(self.cfg).eval()


def read_models(
    words: Sequence[str], opts: Sequence[str] = (), *, dataset: str = "", needs_weights: bool = True
) -> list[ComparedModel]:
    """The models of a command line, each ``[LABEL=]CONFIG.yaml[@WEIGHTS]`` or ``[LABEL=]FOLDER[@WEIGHTS]``.

    Args:
        words: one a model.
        opts: ``KEY VALUE`` overrides of all of them.
        dataset: the images that all are evaluated on; "": the first of each config's ``DATASETS.TEST``. A config whose
            own dataset holds the same images keeps it, since panoptic models differ in how classes are registered.
        needs_weights: refuse a model without trained weights.

    Raises:
        FileNotFoundError, ValueError: a file is missing, two labels are the same, or devices
            or images differ.
    """
    models = [_read_model(word, opts, dataset, needs_weights) for word in words]
    labels = [model.label for model in models]
    for label in labels:
        if labels.count(label) > 1:
            raise ValueError(f"Two models are called {label!r}: name them, as in {label}_a=PATH.")
    devices = {model.cfg.MODEL.DEVICE for model in models}
    if len(devices) > 1:
        raise ValueError(f"MODEL.DEVICE differs between the models ({', '.join(sorted(devices))}): set it for all.")
    first, names = models[0], {dataset: image_names(dataset) for dataset in {model.dataset for model in models}}
    for model in models[1:]:
        if names[model.dataset] != names[first.dataset]:
            raise ValueError(
                f"{first.label} is evaluated on {first.dataset} ({len(names[first.dataset])} images), {model.label} on "
                f"{model.dataset} ({len(names[model.dataset])} others): name one dataset for all with --dataset."
            )
    return models


def _read_model(word: str, opts: Sequence[str], dataset: str, needs_weights: bool) -> ComparedModel:
    label, _, rest = word.partition("=") if "=" in word.split("/")[0] else ("", "", word)
    source, _, weights = rest.partition("@")
    path = Path(source)
    metrics_file = None
    if path.is_dir():
        config_file = path / "config.yaml"
        if not config_file.is_file():
            raise FileNotFoundError(f"{path} holds no config.yaml: it is no output folder of a training.")
        weights = weights or str(path / "model_final.pth")
        if not Path(weights).is_file():
            raise FileNotFoundError(
                f"{weights} does not exist: finish the training (--resume), or name a checkpoint as {path}@FILE."
            )
        metrics_file = path / "metrics.json" if (path / "metrics.json").is_file() else None
    elif path.suffix in (".yaml", ".yml"):
        config_file = path
    else:
        raise FileNotFoundError(f"{source} is neither a folder nor a yaml file that exists.")
    cfg = load_config(str(config_file), opts)
    prepare_device(cfg)
    if weights:
        cfg.MODEL.WEIGHTS = weights
    label = label or (path.name if path.is_dir() else path.stem)
    if needs_weights:
        if not cfg.MODEL.WEIGHTS:
            raise ValueError(
                f"{config_file}: MODEL.WEIGHTS is empty; name the weights as {source}@FILE, or train with --train."
            )
        _local_weights(cfg.MODEL.WEIGHTS, label)
    cfg.freeze()
    return ComparedModel(label, config_file, cfg, _choose_dataset(cfg, dataset, config_file), metrics_file)


def _local_weights(path: str, label: str) -> str:
    bare = path.split("?")[0]
    try:
        local = PathManager.get_local_path(bare)
    except (OSError, KeyError, RuntimeError) as error:
        raise FileNotFoundError(f"{label}: the weights {path} cannot be fetched: {error}") from error
    if Path(local).is_dir():
        return weights_in_folder(local)
    if not Path(local).is_file():
        raise FileNotFoundError(f"{label}: the weights {path} do not exist.")
    return local


def _choose_dataset(cfg: CfgNode, dataset: str, config_file: Path) -> str:
    own = cfg.DATASETS.TEST[0] if cfg.DATASETS.TEST else ""
    if not (own or dataset):
        raise ValueError(f"{config_file}: DATASETS.TEST is empty; name a dataset with --dataset.")
    if not dataset or own == dataset:
        check_dataset_name(own)
        return own
    check_dataset_name(dataset)
    with contextlib.suppress(OSError, ValueError):  # its own images need not be here
        if own in DatasetCatalog and image_names(own) == image_names(dataset):
            return own
    return dataset


def load_records(dataset: str) -> list[dict]:
    """The dataset's records, one an image; an error names what is missing."""
    with readable_annotations(dataset):
        return DatasetCatalog.get(dataset)


def image_names(dataset: str) -> list[tuple[str, str]]:
    """Image id and file name of each image, sorted."""
    return sorted((str(record["image_id"]), Path(record["file_name"]).name) for record in load_records(dataset))
