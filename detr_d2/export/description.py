"""What the user of an exported program must know to feed it, as text that is written into its file."""

import json
from typing import Any

from detectron2.config import CfgNode

from ..checkpoint.class_names import class_names_of_weights
from .graphs import Graph


def describe(
    cfg: CfgNode, graph: Graph, batch: int | None, size: tuple[int, int] | None, multiple: int
) -> dict[str, str]:
    """Names and values, each as JSON: `Graph.facts` of the model, and

    ``architecture``; ``class_names`` by class id, numbers where they are unknown; ``channel_order`` of the images, RGB
    or BGR; ``batch_size``, 0 where it is free; ``height`` and ``width``, 0 where they are free; ``size_multiple``, of
    which free ones are to be multiples; ``min_size`` and ``max_size``, to which the model's own test resizes an image's
    sides where the size is free (the shorter to the first, but the longer to no more than the second).
    """
    height, width = size or (0, 0)
    facts: dict[str, Any] = {
        "architecture": cfg.MODEL.META_ARCHITECTURE,
        "class_names": class_names_of_weights(cfg, graph.num_classes) or [str(i) for i in range(graph.num_classes)],
        "channel_order": cfg.INPUT.FORMAT,
        "batch_size": batch or 0,
        "height": height,
        "width": width,
        "size_multiple": multiple,
        "min_size": cfg.INPUT.MIN_SIZE_TEST,
        "max_size": cfg.INPUT.MAX_SIZE_TEST,
        **graph.facts(),
    }
    return {name: json.dumps(value) for name, value in facts.items()}
