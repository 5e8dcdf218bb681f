"""The comparison as rows of figures: what each is, of which unit, measured or published."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .latency import PRECISIONS

MEASURED, PUBLISHED = "measured", "published"


@dataclass(frozen=True)
class Cell:
    """One figure.

    Attributes:
        value: the figure. source: `MEASURED` or `PUBLISHED`.
        spread: the least and the greatest of the rounds; None where it was measured once.
        note: why there is no value.
    """

    value: float | None
    source: str
    spread: tuple[float, float] | None = None
    note: str = ""


@dataclass(frozen=True)
class Row:
    """One metric of all models.

    Attributes:
        key: as in the JSONs and in ``published.py``.
        title: for people, with its unit.
        digits: after the point.
        measured, published: a cell a model, None where there is none.
    """

    key: str
    title: str
    digits: int
    measured: list[Cell | None]
    published: list[Cell | None]

    def texts(self, cells: Sequence[Cell | None]) -> list[str]:
        """Each cell in its digits, with its spread; "" for none."""
        return ["" if cell is None else self._text(cell) for cell in cells]

    def _text(self, cell: Cell) -> str:
        if cell.value is None:
            return cell.note
        text = f"{cell.value:.{self.digits}f}"
        if cell.spread is not None:
            text += f" ({cell.spread[0]:.{self.digits}f} - {cell.spread[1]:.{self.digits}f})"
        return text


_ACCURACY = [
    *((f"bbox/{name}", f"box {title}") for name, title in (("AP", "AP"), ("AP50", "AP50"), ("AP75", "AP75"))),
    *((f"bbox/AP{size}", f"box AP {size.upper()}") for size in "sml"),
    *((f"segm/{name}", f"mask {name}") for name in ("AP", "AP50", "AP75")),
    *((f"segm/AP{size}", f"mask AP {size.upper()}") for size in "sml"),
    *(
        (f"panoptic_seg/{name}{suffix}", f"{name} {suffix[1:]}".strip())
        for suffix in ("", "_th", "_st")
        for name in ("PQ", "SQ", "RQ")
    ),
    ("sem_seg/mIoU", "mIoU"),
]


def build_rows(results: Sequence[dict[str, Any]], batch_sizes: Sequence[int]) -> list[Row]:
    """The rows that have a figure of any model.

    Args:
        results: what each model's JSON holds, with its ``published`` figures.
        batch_sizes: of the latencies.
    """
    rows = [_row(results, key, title, 1, ("accuracy", key)) for key, title in _ACCURACY]
    rows += [
        _row(results, "parameters", "parameters (M)", 2, ("size", "total"), scale=1e-6),
        _row(results, "trainable", "trainable parameters (M)", 2, ("size", "trainable"), scale=1e-6),
        _row(results, "gflops", "GFLOPs (multiply-adds), mean", 2, ("flops", "mean"), scale=1e-9, spread="range"),
    ]
    for size in batch_sizes:
        for precision in PRECISIONS:
            rows += _latency_rows(results, size, precision)
    rows += [
        _row(results, "memory/inference", "memory of inference, peak (MiB)", 0, ("memory", "inference", "peak")),
        _row(
            results,
            "memory/inference/growth",
            "memory of inference beyond the model (MiB)",
            0,
            ("memory", "inference", "growth"),
        ),
        _row(results, "memory/train", "memory of training, peak (MiB)", 0, ("memory", "train", "peak")),
        _row(
            results,
            "memory/train/growth",
            "memory of training beyond the model (MiB)",
            0,
            ("memory", "train", "growth"),
        ),
        _row(results, "training/speed", "training (images/s)", 2, ("training", "images_per_second"), spread="rounds"),
        _row(
            results,
            "training/waiting",
            "training, waiting for data (% of the time)",
            1,
            ("training", "waiting"),
            scale=100,
        ),
        _row(results, "budget/iterations", "trained iterations", 0, ("budget", "iterations")),
        _row(results, "budget/images", "trained images", 0, ("budget", "images")),
        _row(results, "budget/minutes", "trained minutes", 1, ("budget", "minutes")),
    ]
    return [row for row in rows if any(row.measured) or any(row.published)]


def _latency_rows(results: Sequence[dict[str, Any]], size: int, precision: str) -> list[Row]:
    setting = f"batch {size} {precision}"
    title = f"latency, batch {size}, {precision} (ms/image)"
    rows = []
    for part, name in (
        ("total", ""),
        ("preprocessing", ": mapper"),
        ("model", ": model"),
        ("postprocessing", ": post-processing"),
    ):
        for point in ("p50", "p95"):
            # Published is the time of an image at batch 1, from the loader to the results.
            is_published = (size, precision, part, point) == (1, "fp32", "total", "p50")
            key = "latency" if is_published else f"latency/{setting}/{part}/{point}"
            path = ("latency", setting, part, point)
            spread = "rounds" if point == "p50" else ""
            rows.append(_row(results, key, f"{title}{name}, {point}", 1, path, spread=spread))
    return rows


def _row(
    results: Sequence[dict[str, Any]],
    key: str,
    title: str,
    digits: int,
    path: tuple[str, ...],
    *,
    scale: float = 1.0,
    spread: str = "",
) -> Row:
    return Row(
        key,
        title,
        digits,
        [_measured(result["parts"], path, scale, spread) for result in results],
        [_published(result["published"], key) for result in results],
    )


def _measured(parts: dict[str, Any], path: tuple[str, ...], scale: float, spread: str) -> Cell | None:
    """The figure at ``path`` of a part's result; ``spread``: the name beside it of its rounds."""
    part, *parents, leaf = path
    if part not in parts:
        return None
    node = parts[part]["result"]
    for name in parents:
        node = node.get(name) or {}
        if node.get("error"):
            return Cell(None, MEASURED, note="failed")
    if node.get(leaf) is None:
        return None
    bounds = [scale * value for value in node[spread]] if spread else None
    return Cell(scale * node[leaf], MEASURED, (min(bounds), max(bounds)) if bounds else None)


def _published(figures: dict[str, float], key: str) -> Cell | None:
    return Cell(figures[key], PUBLISHED) if key in figures else None
