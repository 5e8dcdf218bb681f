"""Every problem of a dataset and its summary, as a value, text and JSON."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from ..checks import Demands, Problems
from ..checks.rules import Objects, check_classes, check_records, check_semantic_maps, check_something_to_learn
from ..datasets.coco_json import CocoJson
from ..datasets.custom import CustomDataset
from .annotations import check_annotations, check_categories_in_use
from .images import check_images
from .summary import SIZES, summarize


@dataclass(frozen=True)
class DatasetReport:
    """What is known of a dataset.

    Attributes:
        dataset: its files.
        problems: errors and warnings.
        summary: as `summarize` gives it; empty where the JSON could not be read.
        decoded: whether images and PNGs were decoded.
        is_train: whether it was checked for training, or for evaluation.
    """

    dataset: CustomDataset
    problems: Problems
    summary: dict[str, Any]
    decoded: bool
    is_train: bool = True

    @property
    def trains(self) -> bool:
        """Whether training, or evaluation, would run: there is no error."""
        return not self.problems.errors

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        problems = [asdict(problem) for problem in self.problems]
        files = self.dataset.as_entry()
        lists = {key: value.tolist() for key, value in self.summary.items() if isinstance(value, np.ndarray)}
        summary = {**self.summary, **lists}
        return {**files, "trains": self.trains, "decoded": self.decoded, "problems": problems, "summary": summary}

    def __str__(self) -> str:
        lines = [f"{self.dataset.name}: {self.dataset.json_file}", *map(str, self.problems)]
        kinds = Counter((problem.severity, problem.kind) for problem in self.problems)
        if kinds:
            rows = [[severity, kind, count] for (severity, kind), count in sorted(kinds.items())]
            lines += ["", tabulate(rows, headers=["", "problem", "times"])]
        lines += ["", *_summary_lines(self.summary)] if self.summary else []
        return "\n".join([*lines, "", self._verdict()])

    def _verdict(self) -> str:
        errors = len(self.problems.errors)
        warnings = len(self.problems) - errors
        what = f"{'training' if self.is_train else 'evaluation'} would {'' if self.trains else 'NOT '}run"
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
    """Check one dataset by the rules of the loaders, and by what its files show beyond them.

    Args:
        dataset: its files.
        demands: what training asks for.
        decode: read the images and PNGs, not only list them.
        processes: images that are decoded at once.
        progress: called with the number of files; what it gives is called after each.

    Raises:
        FileNotFoundError: the JSON files are missing.
    """
    boxes, panoptic, records, problems = dataset.read()
    if not (boxes.is_readable and (panoptic is None or panoptic.is_readable)):
        return DatasetReport(dataset, problems, {}, False, demands.is_train)
    objects, segments = records.objects(), Objects(records if panoptic else [], "segments_info")
    problems += check_records(objects, demands)
    if demands.is_train and demands.learns_boxes and not (panoptic and demands.learns_segments):
        problems += check_something_to_learn(objects, boxes.file)
    problems += check_annotations(boxes, objects, demands)
    if panoptic:
        problems += check_records(segments, demands)
        if demands.is_train and demands.learns_segments:
            problems += check_something_to_learn(segments, panoptic.file)
        problems += check_categories_in_use(panoptic, segments)
    problems += _check_classes(boxes, panoptic, dataset, demands)
    problems += check_semantic_maps(records, demands, boxes.file)

    files = len(records) + (int(np.count_nonzero(records.segments.row >= 0)) if panoptic else 0)
    problems += check_images(records, demands, decode=decode, processes=processes, advance=progress(files))
    return DatasetReport(dataset, problems, summarize(boxes, panoptic, objects, segments), decode, demands.is_train)


def _check_classes(boxes: CocoJson, panoptic: CocoJson | None, dataset: CustomDataset, demands: Demands) -> Problems:
    """The number of classes, where the files say it."""
    source = panoptic if panoptic and demands.learns_segments else boxes
    if not (source.has_classes and (demands.learns_boxes or panoptic)):
        return Problems()
    semantic = ["things", *panoptic.stuff.values()] if panoptic and dataset.sem_seg_root else None
    things = range(len(panoptic.things)) if panoptic else None
    return check_classes(demands, list(source.categories.values()), things, semantic, source.file)


def _summary_lines(summary: dict[str, Any]) -> list[str]:
    columns = ["id", "name", "objects", "images", "crowds", *SIZES]
    rows = [[row[column] for column in columns] for row in summary["classes"]]
    lines = [tabulate(rows, headers=["id", "class", *columns[2:]])]
    sizes = summary["image_sizes"] if summary["images"] else np.zeros((1, 2), dtype=int)
    (least_width, least_height), (width, height) = sizes.min(axis=0), sizes.max(axis=0)
    return [
        *lines,
        "",
        f"{summary['images']} images of {least_width} x {least_height} to {width} x {height}, "
        f"{summary['images_without_objects']} without objects; at most {summary['objects_per_image'].max(initial=0)} "
        "objects in one. S, M, L: areas below 32 x 32, below 96 x 96, and above.",
    ]
