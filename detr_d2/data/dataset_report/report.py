"""Every problem of a data set and its summary, as a value, text and JSON."""

import json
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from detectron2.utils.file_io import PathManager
from tabulate import tabulate

from ..datasets.custom import CustomDataset
from .annotations import check_annotations, check_images, read_lists
from .images import check_image_files, check_pngs
from .panoptic import check_panoptic
from .problems import ERROR, Demands, Problems
from .summary import SIZES, summarize


@dataclass(frozen=True)
class DatasetReport:
    """What is known of a data set.

    Attributes:
        dataset: its files.
        problems: errors and warnings.
        summary: as `summarize` gives it; empty where the JSON could not be read.
        decoded: whether images and PNGs were decoded.
    """

    dataset: CustomDataset
    problems: Problems
    summary: dict[str, Any]
    decoded: bool

    @property
    def trains(self) -> bool:
        """Whether training would run: there is no error."""
        return not any(problem.severity == ERROR for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        problems = [problem.as_dict() for problem in self.problems]
        files = self.dataset.as_entry()
        return {**files, "trains": self.trains, "decoded": self.decoded, "problems": problems, "summary": self.summary}

    def __str__(self) -> str:
        lines = [f"{self.dataset.name}: {self.dataset.json_file}", *map(str, self.problems)]
        kinds = Counter((problem.severity, problem.kind) for problem in self.problems)
        if kinds:
            rows = [[severity, kind, count] for (severity, kind), count in sorted(kinds.items())]
            lines += ["", tabulate(rows, headers=["", "problem", "times"])]
        lines += ["", *_summary_lines(self.summary)] if self.summary else []
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        errors = sum(problem.severity == ERROR for problem in self.problems)
        warnings = len(self.problems) - errors
        what = "training would run" if self.trains else "training would NOT run"
        undecoded = "" if self.decoded else "; images were not decoded"
        return f"{self.dataset.name}: {what}: {errors} errors, {warnings} warnings{undecoded}"


def report_dataset(
    dataset: CustomDataset,
    demands: Demands,
    *,
    decode: bool = True,
    processes: int = 1,
    progress: Callable[[int], Callable[[], object]] = lambda total: lambda: None,
) -> DatasetReport:
    """Check one data set.

    Args:
        dataset: its files.
        demands: what training asks for.
        decode: read the images and PNGs, not only list them.
        processes: images that are decoded at once.
        progress: called with the number of files; what it gives is called after each.

    Raises:
        FileNotFoundError: the JSON files are missing.
    """
    problems = Problems()
    content = _read(dataset.json_file, problems)
    panoptic = _read(dataset.panoptic_json, problems) if dataset.panoptic_json else None
    if problems:
        return DatasetReport(dataset, problems, {}, False)
    problems += check_annotations(content, dataset, demands)
    if panoptic is not None:
        problems += check_panoptic(panoptic, content, dataset, demands)

    images = list(check_images(_list(content, 0), "", Problems()).values())
    sizes = {image["id"]: (image["height"], image["width"]) for image in images}
    pngs = [
        a
        for a in (_list(panoptic, 1) if panoptic is not None else [])
        if a.get("image_id") in sizes
        and isinstance(a.get("file_name"), str)
        and isinstance(a.get("segments_info"), list)
    ]
    how = {"decode": decode, "processes": processes, "advance": progress(len(images) + len(pngs))}
    problems += check_image_files(images, dataset.image_root, demands, **how)
    problems += check_pngs(pngs, sizes, dataset.panoptic_root, is_error=demands.learns_segments, **how)
    return DatasetReport(dataset, problems, summarize(content, panoptic), decode)


def _read(json_file: str, problems: Problems) -> Any:
    local = PathManager.get_local_path(json_file)
    if not os.path.isfile(local):
        raise FileNotFoundError(f"The annotation file {json_file} does not exist.")
    try:
        with open(local, encoding="utf-8") as file:
            return json.load(file)
    except ValueError as error:
        problems.error("format", json_file, None, f"it is not valid JSON ({error})")
        return None


def _list(content: Any, place: int) -> list[dict]:
    return (read_lists(content, "", Problems()) or ([], [], []))[place]


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    columns = ["id", "name", "objects", "images", "crowds", *SIZES]
    rows = [[row[column] for column in columns] for row in summary["classes"]]
    lines = [tabulate(rows, headers=["id", "class", *columns[2:]])]
    widths, heights = zip(*summary["image_sizes"], strict=True) if summary["image_sizes"] else ((0,), (0,))
    return [
        *lines,
        "",
        f"{summary['images']} images of {min(widths)} x {min(heights)} to {max(widths)} x {max(heights)}, "
        f"{summary['images_without_objects']} without objects; at most {max(summary['objects_per_image'], default=0)} "
        "objects in one. S, M, L: areas below 32 x 32, below 96 x 96, and above.",
    ]
