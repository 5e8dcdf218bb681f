"""From a trained model to a file that runs without Detectron2, compared with the model before it is there."""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from ..checkpoint.class_names import class_names_of_weights
from ..data import squashed_size
from ..engine import load_trained_model
from ..facts import num_classes_of
from ..files import whole_file
from .capture import Shape, check_numbers, check_shape, record
from .check import Difference, compare, noise_images, read_images
from .formats import FORMATS
from .graphs import Graph, graph_of


@dataclass(frozen=True)
class ExportSettings:
    """What to write.

    Attributes:
        format: one of `FORMATS`.
        size: height and width; None: those of the model's test, the largest landscape where it keeps images' shapes.
        batch: images; None: any number.
        dynamic_size: take any height and width; ``size`` is then that of the example.
        max_detections: of a panoptic model, whose masks cost most; None: all of its queries.
        tolerance: the largest difference to the model, see `Difference`.
        opset: the version of ONNX's operators; None: 18, which torch writes.
    """

    format: str
    size: tuple[int, int] | None = None
    batch: int | None = None
    dynamic_size: bool = False
    max_detections: int | None = None
    tolerance: float = 1e-4
    opset: int | None = None


def export_model(
    cfg: CfgNode,
    output: Path,
    settings: ExportSettings,
    images: Sequence[Path] = (),
    say: Callable[[str], None] = lambda line: None,
) -> Difference:
    """Write the model of ``cfg`` to ``output``, with its description, and compare it with the model.

    Args:
        images: files to compare on; noise without any.
        say: takes a line about each step.

    Returns:
        how much the file differs from the model.

    Raises:
        ValueError: the model has no graph, a setting that does not fit it, or a difference above the tolerance; then
            there is no file.
        FileNotFoundError: weights or images that do not exist.
    """
    file_format = FORMATS[settings.format]
    if settings.opset is not None and not file_format.has_opset:
        raise ValueError(f"--opset is a version of ONNX's operators, which --format {settings.format} has not.")
    graph_class = graph_of(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE))
    check_numbers(settings.size, settings.batch)
    missing = [str(path) for path in images if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"{', '.join(missing[:3])} to compare on: no such file.")
    graph = graph_class(load_trained_model(cfg), settings.max_detections)
    file_format.check(graph)
    multiple = file_format.size_multiple(graph) if settings.dynamic_size else graph.size_multiple
    height, width = settings.size or default_size(cfg, multiple)
    if settings.dynamic_size:  # recorded with one location, a side of the coarsest features would be one for ever
        least = -(-2 * graph.coarsest_stride // multiple) * multiple
        height, width = max(height, least), max(width, least)
    shape = Shape(settings.batch, height, width, settings.dynamic_size, multiple)
    check_shape(graph, shape)
    squash = squashed_size(cfg)
    if squash and settings.size and not shape.is_free:
        squash = settings.size
    pictures = read_images(images, cfg, shape, squash) if images else noise_images(shape, squash)

    start = time.perf_counter()
    program = record(graph, shape)
    say(f"recorded in {time.perf_counter() - start:.0f} s")
    facts = describe(cfg, graph, shape, squash)
    with whole_file(output) as partial:
        start = time.perf_counter()
        file_format.write(partial, program, graph.output_names, facts, settings.opset or 18)
        say(f"written in {time.perf_counter() - start:.0f} s, {partial.stat().st_size / 2**20:.0f} MiB")
        found = compare(graph, file_format.load(partial, graph.output_names), pictures, shape)
        what = f"{len(pictures)} {'images' if images else 'images of noise'}"
        say(f"compared with the model on {what}: {found}")
        eager, exported = found.seconds
        say(f"time of both on them: model {eager:.2f} s, file {exported:.2f} s")
        try:
            found.check(settings.tolerance)
        except ValueError as error:
            raise ValueError(f"{output} was not kept: {error}") from error
    return found


def default_size(cfg: CfgNode, multiple: int) -> tuple[int, int]:
    """What the model's test resizes to, the largest landscape where images keep their shapes; in multiples."""
    squash = squashed_size(cfg)
    longest = cfg.INPUT.MAX_SIZE_TEST
    shortest = min(cfg.INPUT.MIN_SIZE_TEST or longest, longest)
    return tuple(-(-side // multiple) * multiple for side in squash or (shortest, longest))


def describe(cfg: CfgNode, graph: Graph, shape: Shape, squash: tuple[int, int] | None) -> dict[str, str]:
    """What the user of a program must know to feed it, which is written into its file: names and values, each as JSON.
    They are the `Graph`'s ``facts``, and

    ``architecture``; ``class_names`` by class id, numbers where they are unknown; ``channel_order`` of the images, RGB
    or BGR; ``batch_size``, 0 where it is free; ``height`` and ``width``, 0 where they are free; ``size_multiple``, of
    which free ones are to be multiples; ``min_size`` and ``max_size``, to which the model's own test resizes an image's
    sides where the size is free (the shorter to the first, but the longer to no more than the second); and, of models
    whose test squashes all images to one size, ``squash``, its height and width.
    """
    num_classes = num_classes_of(cfg)[0] or 0
    facts: dict[str, Any] = {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "class_names": class_names_of_weights(cfg, num_classes) or [str(i) for i in range(num_classes)],
        "channel_order": cfg.INPUT.FORMAT,
        "batch_size": shape.batch or 0,
        "height": 0 if shape.is_free else shape.height,
        "width": 0 if shape.is_free else shape.width,
        "size_multiple": shape.multiple,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        **({"squash": squash} if squash else {}),
        **graph.facts,
    }
    return {name: json.dumps(value) for name, value in facts.items()}
