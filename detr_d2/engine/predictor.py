"""A trained model as a function: images in, Detectron2's outputs out.

Legend: H W size of an image.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import detectron2.data.transforms as T
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from PIL.Image import Image as PilImage

from ..checkpoint.class_names import read_dataset_metadata
from ..checkpoint.huggingface import CONFIG
from ..checkpoint.huggingface_keys import config_keys
from ..checkpoint.published import get_checkpoint_url, get_config_file, is_published
from ..data import batches_of_one_size, build_dataset_mapper
from ..data.image_files import convert_image, convert_pil, read_image
from ..facts import model_facts, value_of
from .config import found_config, load_config, prepare_device
from .json_outputs import output_to_dict
from .model_lock import ModelLock
from .step import autocast
from .trained_model import load_trained_model

Image = str | os.PathLike | np.ndarray | torch.Tensor | PilImage

_KINDS = "a path, an array (H x W x 3, uint8), a tensor (3 x H x W, uint8) or a PIL image"
_ORDERS = ("BGR", "RGB")
# Images are read for so many batches at once, to find some of one size among them.
_BATCHES_AHEAD = 4


class Predictor:
    """Any model of this package, or of Detectron2, with its weights, ready to be called from any thread.

    A process may fork while another thread predicts; the child predicts on one core, and not on a GPU. A predictor can
    be pickled, with its weights, for processes that are spawned.

    It sees what it sees in evaluation: the resize of ``INPUT.MIN_SIZE_TEST`` and ``MAX_SIZE_TEST``, the channel order
    of ``INPUT.FORMAT``. Images of one size after that resize share batches, so that no image is padded for another's
    sake and results do not depend on the batch, for models too that do not tell padding from image.

    Args:
        config_or_checkpoint: a yaml config, whose weights are ``weights`` or else ``MODEL.WEIGHTS``; or a checkpoint of
            our trainer, with ``config.yaml`` beside it; or a folder of ``transformers``, of DETR, panoptic DETR or
            Deformable DETR; or the name of a published model, such as "COCO-Detection/detr_R_50_500ep", whose weights
            are downloaded.
        weights: a checkpoint of any layout that ``MODEL.WEIGHTS`` reads; only with a config.
        opts: overrides of the config, ``["KEY", value, ...]``.
        device: such as "cuda:1" or "cpu"; None: ``MODEL.DEVICE``, or the CPU where that is a GPU and there is none.
        batch_size: the most images of a forward pass; None: ``TEST.IMS_PER_BATCH``.
        amp: mixed precision, in ``SOLVER.AMP.PRECISION`` on GPUs and bf16 on CPUs; else fp32, whatever the config says.

    Attributes:
        cfg: the config, frozen. model: in evaluation mode.
        metadata: class names (``thing_classes``, ``stuff_classes``) and the dataset's category ids, from the
            checkpoint or else from the first of ``DATASETS.TEST``; empty where neither knows them.

    Raises:
        FileNotFoundError: the config, the checkpoint, or the ``config.yaml`` beside it does not exist.
        ValueError: an unknown key, a value that does not fit, weights of another model or of a backbone only.

    Example::

        predictor = Predictor("output/run/model_final.pth", batch_size=4)
        for output in predictor(["a.jpg", "b.jpg"]):
            print(output["instances"].pred_boxes, output["instances"].scores)
    """

    def __init__(
        self,
        config_or_checkpoint: str | os.PathLike,
        weights: str | os.PathLike | None = None,
        *,
        opts: Sequence[Any] = (),
        device: str | None = None,
        batch_size: int | None = None,
        amp: bool = False,
    ) -> None:
        cfg, described = _read_config(os.fspath(config_or_checkpoint), weights, opts)
        _set_device(cfg, device, amp)
        things, key = described.get("thing_dataset_id_to_contiguous_id"), model_facts(cfg).thing_classes
        if things and key and not value_of(cfg, key):  # the dataset need not be registered here
            cfg.merge_from_list([key, sorted(set(things.values()))])
        cfg.freeze()
        self.cfg = cfg
        self.batch_size = cfg.TEST.IMS_PER_BATCH if batch_size is None else batch_size
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}.")
        self.model = load_trained_model(cfg)
        self.metadata = _metadata_of(cfg, described)
        self._augmentations, self._format = _test_time_inputs(cfg)
        self._lock = ModelLock()

    def __call__(
        self, images: Image | Iterable[Image], *, order: str | None = None
    ) -> dict[str, Any] | list[dict[str, Any]]:
        """Detectron2's outputs, on the CPU and at the size of the given images.

        Args:
            images: one image or several, each a path, an array (H x W x 3, uint8), a tensor (3 x H x W, uint8) or a PIL
                image, which is turned as its EXIF data says, as a file is.
            order: of the channels of arrays and tensors, "BGR" or "RGB"; None: arrays are BGR, as OpenCV reads them and
                Detectron2's predictor takes them, and tensors RGB, as torchvision reads them.

        Returns:
            for each image, in the given order, a dict with ``instances`` (``pred_boxes``, ``scores``, ``pred_classes``
            and, with masks, ``pred_masks``) and, of panoptic models, ``panoptic_seg``: the map and its segments. The
            dict itself where one image was given, and not a list of one. See `to_dict`.

        Raises:
            FileNotFoundError, OSError: a file is missing or cannot be read as an image; the message names it.
            ValueError, TypeError: what is no image; the message names its place.
        """
        if order is not None and order not in _ORDERS:
            raise ValueError(f"order is {order!r}; it must be one of {', '.join(_ORDERS)}.")
        is_one = isinstance(images, (str, os.PathLike, PilImage)) or getattr(images, "ndim", 4) != 4
        if not is_one and not isinstance(images, Iterable):
            raise TypeError(f"A {type(images).__name__} is no image: give {_KINDS}.")
        items = [images] if is_one else list(images)
        for index, image in enumerate(items):
            _check_image(image, index)
        outputs: list[dict[str, Any]] = []
        ahead = _BATCHES_AHEAD * self.batch_size
        for start in range(0, len(items), ahead):
            outputs += self._predict([self._input(image, order) for image in items[start : start + ahead]])
        return outputs[0] if is_one else outputs

    def to_dict(self, output: Mapping[str, Any]) -> dict[str, Any]:
        """An output as numbers, strings, lists and dicts, which ``json.dumps`` takes; see `output_to_dict`."""
        return output_to_dict(output, self.metadata)

    def _input(self, image: Image, order: str | None) -> dict[str, Any]:
        """What the model takes, as the mapper of the config would give it."""
        item = {}
        if isinstance(image, np.ndarray):
            pixels = convert_image(image, order or "BGR", self._format)
        elif isinstance(image, torch.Tensor):
            pixels = convert_image(image.permute(1, 2, 0).cpu().numpy(), order or "RGB", self._format)
        elif isinstance(image, PilImage):
            pixels = convert_pil(image, self._format)
        else:
            item["file_name"] = os.fspath(image)
            pixels = read_image(image, self._format)
        height, width = pixels.shape[:2]
        resized = T.AugInput(pixels)
        self._augmentations(resized)
        tensor = torch.from_numpy(np.ascontiguousarray(resized.image.transpose(2, 0, 1)))
        return item | {"image": tensor, "height": height, "width": width}

    def _predict(self, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        outputs: list[dict[str, Any]] = [{}] * len(inputs)
        for indices in batches_of_one_size([item["image"].shape for item in inputs], self.batch_size):
            # One thread at a time: a second forward pass would gain nothing on the same device, and not every model
            # keeps its state out of it.
            with self._lock, torch.no_grad(), autocast(self.cfg):
                batch = _to_cpu(self.model([inputs[i] for i in indices]))
            for i, output in zip(indices, batch, strict=True):
                outputs[i] = output
        return outputs


def _read_config(path: str, weights: str | os.PathLike | None, opts: Sequence[Any]) -> tuple[CfgNode, dict[str, Any]]:
    """The config that a path stands for, with its weights in ``MODEL.WEIGHTS``, and what those say of their classes."""
    words = [str(word) for word in opts]
    if weights is None and not os.path.exists(path) and is_published(path):
        path, weights = get_config_file(path), get_checkpoint_url(path)
    elif weights is not None and not os.path.exists(path):
        path = found_config(path)
    if weights is None and os.path.isfile(os.path.join(path, CONFIG)):
        keys, described = config_keys(path)
        return load_config("", [*keys, *words]), described
    is_config = path.lower().endswith((".yaml", ".yml"))
    config_file = path if is_config else os.path.join(os.path.dirname(path), "config.yaml")
    if not is_config:
        if weights is not None:
            raise ValueError(f"{path} and {weights} are two checkpoints: give a yaml config and one of them.")
        if os.path.isdir(path):
            raise IsADirectoryError(
                f"{path} is a folder: name a checkpoint in it, a yaml config, or a folder of transformers."
            )
        if not os.path.isfile(path):
            raise FileNotFoundError(f"The checkpoint {path} does not exist.")
        if not os.path.isfile(config_file):
            raise FileNotFoundError(
                f"{path} has no config.yaml beside it, which names its model: give the config, with it as the weights."
            )
        weights = path
    cfg = load_config(config_file, words)
    if weights is not None:
        cfg.MODEL.WEIGHTS = os.fspath(weights)
    return cfg, read_dataset_metadata(cfg.MODEL.WEIGHTS)


def _set_device(cfg: CfgNode, device: str | None, amp: bool) -> None:
    """Device and precision, in place."""
    if device is not None:
        cfg.MODEL.DEVICE = str(device)
    prepare_device(cfg)
    cfg.SOLVER.AMP.ENABLED = amp
    if amp and cfg.MODEL.DEVICE == "cpu":
        cfg.SOLVER.AMP.PRECISION = "bfloat16"  # the other one needs a GPU


def _test_time_inputs(cfg: CfgNode) -> tuple[T.AugmentationList, str]:
    """What the config's mapper does to an image in evaluation, and the channel order that it reads."""
    mapper = build_dataset_mapper(cfg, is_train=False)
    try:
        return mapper.augmentations, mapper.image_format
    except AttributeError as error:
        raise ValueError(
            f"INPUT.DATASET_MAPPER {cfg.INPUT.DATASET_MAPPER!r} does not say what it does to an image: it needs the "
            "attributes augmentations and image_format, as Detectron2's DatasetMapper has them."
        ) from error


def _metadata_of(cfg: CfgNode, described: dict[str, Any]) -> Metadata:
    """The dataset's metadata; what the checkpoint says of its classes where the two differ."""
    names = [name for name in (*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN) if name in DatasetCatalog]
    registered = MetadataCatalog.get(names[0]) if names else Metadata()
    if all(registered.get(key) == value for key, value in described.items()):
        return registered
    return Metadata().set(**described)


def _check_image(image: Any, index: int) -> None:
    """Raise an error that names the place of what is no image."""
    if isinstance(image, (str, os.PathLike, PilImage)):
        return
    if not isinstance(image, (np.ndarray, torch.Tensor)):
        raise TypeError(f"Image {index} is a {type(image).__name__}; expected {_KINDS}.")
    is_array = isinstance(image, np.ndarray)
    channels = tuple(image.shape[-1:] if is_array else image.shape[:1])
    if image.dtype not in (np.uint8, torch.uint8) or image.ndim != 3 or channels != (3,) or 0 in image.shape:
        kind, expected = ("an array", "H x W x 3") if is_array else ("a tensor", "3 x H x W")
        shape = " x ".join(map(str, image.shape))
        raise ValueError(f"Image {index} is {kind} of {shape}, {image.dtype}; expected {expected}, uint8.")


def _to_cpu(value: Any) -> Any:
    """Outputs with all of their tensors on the CPU, where they take none of the model's memory."""
    if hasattr(value, "to"):  # a tensor, or one of Detectron2's structures
        return value.to("cpu")
    if isinstance(value, dict):
        return {key: _to_cpu(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_to_cpu(item) for item in value)
    return value
