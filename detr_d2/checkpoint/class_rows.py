"""Class rows of published heads, indexed by COCO category id -> Detectron2's contiguous ids, and back.

A head is ``class_embed``, whose last row is no-object, or one ``class_embed.N`` a decoder layer, whose rows are classes
alone (Deformable DETR).

Legend: K rows of a head, C its input width.
"""

import re
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import torch
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

from .names import LABEL_EMBEDDING

CLASS_HEAD = re.compile(r"^(?:class_embed\.(?:(?P<layer>\d+)\.)?|head\.cls_logits\.)(weight|bias)$")
# Two-stage Deformable DETRs have one more head, for proposals, after the layers'. Its row 0 says whether there is an
# object at all; the others mean nothing.
_PROPOSALS = "transformer.query_selection.pos_trans.weight"

# Logit of an unused class row, low enough to vanish in every softmax and sigmoid, and finite in half precision.
UNUSED_LOGIT = -1e4


class RowTable(NamedTuple):
    """Which rows of a head indexed by category id are in use.

    Attributes:
        rows: K of the published head.
        used: their indices in the order of contiguous ids, no-object last where there is one.
    """

    rows: int
    used: tuple[int, ...]


COCO_THINGS = tuple(sorted(category["id"] for category in COCO_CATEGORIES if category["isthing"]))
# The ids of published panoptic heads are less than this.
NUM_COCO_PANOPTIC = 250
_ALL = tuple(sorted(category["id"] for category in COCO_CATEGORIES))
# One entry a published head.
ROW_TABLES: tuple[RowTable, ...] = (
    RowTable(92, (*COCO_THINGS, 91)),  # boxes: 91 ids
    RowTable(NUM_COCO_PANOPTIC + 1, (*_ALL, NUM_COCO_PANOPTIC)),
)
# The same of heads without no-object.
LAYER_ROW_TABLES: tuple[RowTable, ...] = (RowTable(91, COCO_THINGS),)


def is_class_head(key: str) -> bool:
    """Whether one of our names belongs to the class head, whose first dimension counts classes."""
    return CLASS_HEAD.match(key) is not None


def head_rows(state: Mapping[str, Tensor]) -> int | None:
    """K of the class head; None without a head."""
    return next((value.shape[0] for key, value in state.items() if is_class_head(key) and value.dim()), None)


def has_no_object(state: Collection[str]) -> bool:
    """Whether the class head's last row is no-object."""
    return not any(match["layer"] for match in map(CLASS_HEAD.match, state) if match)


def proposal_head(state: Collection[str]) -> str | None:
    """What the names of the proposals' class head start with; None where there is none."""
    layers = [int(match["layer"]) for match in map(CLASS_HEAD.match, state) if match and match["layer"]]
    return f"class_embed.{max(layers)}." if layers and _PROPOSALS in state else None


def to_contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Re-index the class heads (our names) to contiguous ids where they have the rows of a published head."""
    table = next((table for table in _tables(state) if table.rows == head_rows(state)), None)
    return dict(state) if table is None else _map_heads(state, table, lambda value, used: value[used])


def to_category_ids(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: re-index contiguous COCO heads by category id.

    Raises:
        ValueError: the head has another number of rows than COCO's.
    """
    rows = head_rows(state)
    table = next((table for table in _tables(state) if rows in (len(table.used), table.rows)), None)
    if table is None:
        known = " or ".join(str(len(table.used)) for table in _tables(state))
        raise ValueError(
            f"The class head has {rows} rows, COCO's have {known}, so it has no COCO category ids: "
            "keep its class ids contiguous (--class-ids contiguous)."
        )

    def spread(value: Tensor, used: list[int]) -> Tensor:
        unused = UNUSED_LOGIT if value.dim() == 1 else 0.0  # of a bias, of weights
        rows = table.rows + len(value) - len(table.used)  # an embedding of labels has one more
        result = value.new_full((rows, *value.shape[1:]), unused)
        result[used] = value
        return result

    return dict(state) if rows == table.rows else _map_heads(state, table, spread)


def keep_objectness(checkpoint: Mapping[str, Tensor], model: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The model's proposal head, if any, with row 0 of the checkpoint's: for other classes it is just as good."""
    prefix = proposal_head(checkpoint)
    return {
        key: torch.cat([value[:1].to(model[key]), model[key][1:]])
        for key, value in checkpoint.items()
        if prefix and key.startswith(prefix) and key in model and value.shape[1:] == model[key].shape[1:]
    }


def _tables(state: Collection[str]) -> tuple[RowTable, ...]:
    return ROW_TABLES if has_no_object(state) else LAYER_ROW_TABLES


def _map_heads(
    state: Mapping[str, Tensor], table: RowTable, re_index: Callable[[Tensor, list[int]], Tensor]
) -> dict[str, Tensor]:
    prefix, result = proposal_head(state), dict(state)
    for key in filter(is_class_head, state):
        first = 0 if prefix and key.startswith(prefix) else table.used[0]
        result[key] = re_index(state[key], [first, *table.used[1:]])
    if LABEL_EMBEDDING in state:
        result[LABEL_EMBEDDING] = re_index(state[LABEL_EMBEDDING], [*table.used, table.rows])
    return result
