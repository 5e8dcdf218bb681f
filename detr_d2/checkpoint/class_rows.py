"""Class rows of published heads, indexed by COCO category id -> Detectron2's contiguous ids, and back.

Legend: K rows of a head (classes + no-object, which is the last row), C its input width.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from torch import Tensor

CLASS_HEAD = re.compile(r"^class_embed\.(weight|bias)$")

# Logit of an unused class row, low enough to vanish in every softmax, and finite in half precision.
UNUSED_LOGIT = -1e4


@dataclass(frozen=True)
class RowTable:
    """Which rows of a head indexed by category id are in use.

    Attributes:
        rows: K of the published head.
        used: their indices in the order of contiguous ids, no-object last.
    """

    rows: int
    used: tuple[int, ...]

    def to_contiguous(self, tensor: Tensor) -> Tensor:
        """``(rows, ...)`` -> ``(len(used), ...)``."""
        return tensor[list(self.used)]

    def to_category_ids(self, tensor: Tensor) -> Tensor:
        """``(len(used), ...)`` -> ``(rows, ...)``; a row that is not in use never wins the softmax."""
        is_bias = tensor.dim() == 1
        result = tensor.new_full((self.rows, *tensor.shape[1:]), UNUSED_LOGIT if is_bias else 0.0)
        result[list(self.used)] = tensor
        return result


def _table(category_ids: Iterable[int], rows: int) -> RowTable:
    return RowTable(rows=rows, used=(*sorted(category_ids), rows - 1))


# One entry a published head.
ROW_TABLES: tuple[RowTable, ...] = (
    _table((category["id"] for category in COCO_CATEGORIES if category["isthing"]), rows=92),  # boxes: 91 ids
    _table((category["id"] for category in COCO_CATEGORIES), rows=251),  # panoptic: 250 ids
)


def is_class_head(key: str) -> bool:
    """Whether one of our names belongs to the class head, whose first dimension counts classes."""
    return CLASS_HEAD.match(key) is not None


def head_rows(state: Mapping[str, Tensor]) -> int | None:
    """K of the class head; None without a head."""
    return next((value.shape[0] for key, value in state.items() if is_class_head(key) and value.dim()), None)


def to_contiguous(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Re-index the class head (our names) to contiguous ids where it has the rows of a published head."""
    table = next((table for table in ROW_TABLES if table.rows == head_rows(state)), None)
    if table is None:
        return dict(state)
    return {key: table.to_contiguous(value) if is_class_head(key) else value for key, value in state.items()}


def to_category_ids(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The inverse: re-index a contiguous COCO head by category id.

    Raises:
        ValueError: the head has another number of rows than COCO's.
    """
    rows = head_rows(state)
    table = next((table for table in ROW_TABLES if rows in (len(table.used), table.rows)), None)
    if table is None:
        known = " or ".join(str(len(table.used)) for table in ROW_TABLES)
        raise ValueError(
            f"The class head has {rows} rows, COCO's have {known}, so it has no COCO category ids: "
            "keep its class ids contiguous (--class-ids contiguous)."
        )
    if rows == table.rows:
        return dict(state)
    return {key: table.to_category_ids(value) if is_class_head(key) else value for key, value in state.items()}
