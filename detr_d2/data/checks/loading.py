"""What a loader checks once, when it is built: bad data ends in one error that says what and where, before hours of
training, instead of an index error inside of a CUDA kernel or a NaN loss in the middle of it."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from typing import Any

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog

from ...facts import class_names_in, class_names_of, model_class_names, reads_segments, separate_stuff
from ...files import refuse_special
from .files import check_files
from .problems import BadDatasetError, Demands, Problems, datasets_root
from .rules import (
    Objects,
    Records,
    check_categories,
    check_classes,
    check_records,
    check_semantic_maps,
    check_something_to_learn,
)


def check_dataset_name(dataset_name: str) -> None:
    """Raise a ValueError with the names that come close, unless ``dataset_name`` is registered."""
    if dataset_name in DatasetCatalog:
        return
    close = difflib.get_close_matches(dataset_name, DatasetCatalog.keys(), n=5)
    hint = f"Did you mean {', '.join(close)}? " if close else ""
    raise ValueError(
        f"Dataset {dataset_name!r} (DATASETS.TRAIN or DATASETS.TEST) is not registered. {hint}A COCO-format dataset "
        "of your own is named in DATASETS.CUSTOM, as [{'name': ..., 'json_file': ..., 'image_root': ...}]; "
        "DatasetCatalog.list() has all names."
    )


@contextmanager
def readable_annotations(dataset_name: str) -> Iterator[None]:
    """Within it, what loading the annotations of ``dataset_name`` raises becomes an error that says what to do.

    Raises:
        OSError: the annotation file is a pipe or a device.
        FileNotFoundError: a file is missing; names it, the dataset and the present ``DETECTRON2_DATASETS``.
        ValueError: the annotation file is not JSON, is not what the dataset's format asks for, or holds no image.
    """
    metadata = MetadataCatalog.get(dataset_name)
    annotation_file = metadata.get("json_file") or metadata.get("panoptic_json") or "its annotation file"
    try:
        refuse_special(annotation_file)
        yield
    except BadDatasetError:  # which says all of it
        raise
    except FileNotFoundError as e:
        raise FileNotFoundError(
            f"Dataset {dataset_name!r}: {e.filename or annotation_file} does not exist. Detectron2's own datasets "
            "lie below the folder that the environment variable DETECTRON2_DATASETS names when Python starts "
            f"({datasets_root()})."
        ) from e
    except json.JSONDecodeError as e:
        raise ValueError(
            f"Dataset {dataset_name!r}: {annotation_file} is not valid JSON ({e}); was it copied completely?"
        ) from e
    except (AssertionError, AttributeError, KeyError, RecursionError, TypeError, ValueError) as e:
        if isinstance(e, KeyError) and isinstance(e.args[0], int):  # a look-up by category id
            raise ValueError(
                f"Dataset {dataset_name!r}: the annotations in {annotation_file} use the category id {e}, which the "
                "dataset does not know: add it to thing_dataset_id_to_contiguous_id or "
                f"stuff_dataset_id_to_contiguous_id of MetadataCatalog.get({dataset_name!r}), or correct the "
                "annotations"
            ) from e
        what = f"{type(e).__name__}: {str(e).rstrip('.')}"
        raise ValueError(
            f"Dataset {dataset_name!r} cannot be used ({annotation_file}): {what}. It must hold at least one image "
            "(with objects, where DATALOADER.FILTER_EMPTY_ANNOTATIONS is on), be in the format that it was registered "
            "with, and its files must lie where it was registered."
        ) from e


def check_dataset_dicts(
    dataset_dicts: Sequence[dict[str, Any]],
    dataset_name: str,
    demands: Demands,
    class_names: Sequence[str] | None = None,
) -> Sequence[dict[str, Any]]:
    """Check one dataset against what the model asks for and the disk. About 1 s for COCO's 118 thousand images.

    Args:
        dataset_dicts: Detectron2's dataset format. Never modified: what changes is copied.
        dataset_name: for the errors, and for the metadata.
        demands: of the model.
        class_names: of the classes that the model learns; None: they are not known.

    Returns:
        The dicts to use, in the same order; those without boxes to drop are the given objects.

    In evaluation, a dataset need not have all classes of the model: see `check_test_classes`.

    Raises:
        ValueError: no image; class counts differ; category ids out of range; boxes malformed, not finite or without
            area; too many objects; masks or semantic maps that the model needs are not there; nothing to learn from.
        FileNotFoundError: files are missing.
    """
    problems = Problems()
    if not dataset_dicts:
        problems.error("no-images", "", None, "is empty: its annotation file names no image")
    keys = [key for key in ("annotations", "segments_info") if _have(dataset_dicts, key)]
    if demands.learns_segments:  # beside which a dataset may have annotations in a class space of their own
        keys = [key for key in keys if key != "annotations"]
    objects = Objects.of(dataset_dicts, *(keys[:1] or ["annotations"]))
    things = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    things = None if things is None else list(things.values())
    problems += check_classes(demands, class_names, things, separate_stuff(dataset_name))
    problems += check_categories(objects, demands)
    problems += check_records(objects, demands)
    if demands.is_train:
        problems += check_something_to_learn(objects) if keys and dataset_dicts else []
        problems += check_semantic_maps(dataset_dicts, demands)
    problems += check_files(
        dataset_dicts, "file_name", is_error=not (demands.is_train and demands.skips_unreadable_images)
    )
    for key in demands.annotation_files:
        problems += check_files(dataset_dicts, key, is_error=True)
    problems.raise_first(dataset_name)
    problems.log_warnings(dataset_name)
    drops = demands.is_train and objects.key == "annotations"
    return objects.usable(objects.degenerate & objects.counts & drops)


def _have(records: Sequence[dict[str, Any]], key: str) -> bool:
    return records.has(key) if isinstance(records, Records) else any(key in record for record in records)


def check_same_classes(cfg: CfgNode, names: Iterable[str]) -> None:
    """Datasets that a model is trained or evaluated on must have the same classes in one order, as far as their
    metadata names them; things and stuff where the model learns both.

    Raises:
        ValueError: two of them differ; names both, and the first class that differs.
    """
    advice = "give them the same thing_classes, stuff_classes and thing_dataset_id_to_contiguous_id"
    _require_same({name: _classes(cfg, name) for name in names}, advice)


def _require_same(classes: Mapping[str, list[str] | None], advice: str) -> None:
    known = {name: found for name, found in classes.items() if found is not None}
    for name, found in list(known.items())[1:]:
        first, expected = next(iter(known.items()))
        if found != expected:
            place, pair = next((i, p) for i, p in enumerate(zip_longest(expected, found)) if p[0] != p[1])
            one, other = ("none" if label is None else repr(label) for label in pair)
            raise ValueError(
                f"{first!r} and {name!r} are used by one model (DATASETS.TRAIN, DATASETS.TEST, MODEL.WEIGHTS), but "
                f"class {place} is {one} in the one and {other} in the other: {advice}."
            )


def check_test_classes(cfg: CfgNode, name: str) -> None:
    """The classes of a test set must be the model's, or some of them, by name; where the mapper reads segments, all of
    them in the model's order. What the metadata does not name is not checked.

    Raises:
        ValueError: a class that the model does not know; names it.
    """
    if reads_segments(cfg):
        check_same_classes(cfg, [*cfg.DATASETS.TRAIN, name])
        return
    names, known = class_names_of(cfg, name), model_class_names(cfg)
    if names is None or known is None or names == known:
        return
    unclear = [other for other in names if known.count(other) != 1 or names.count(other) > 1]
    if unclear:
        label, train = unclear[0], f"{cfg.DATASETS.TRAIN[0]!r} (DATASETS.TRAIN)"
        raise ValueError(
            f"Dataset {name!r} (DATASETS.TEST) has the class {label!r}, which "
            f"{f'it or {train} has more than once' if label in known else f'{train} does not have'}, so that no class "
            "of the model can be said to be it: rename it, or take it out."
        )


def check_weights_classes(cfg: CfgNode, described: Mapping[str, Any], weights: str) -> None:
    """The classes of weights that are evaluated must be those of ``DATASETS.TRAIN``, by whose names test sets are read.

    Args:
        described: the metadata of the dataset that the weights were trained on, as a checkpoint holds it.
        weights: their name.

    Raises:
        ValueError: they differ; names the first class that does.
    """
    if (expected := model_class_names(cfg)) is not None:
        advice = "name the dataset that it was trained on in DATASETS.TRAIN"
        _require_same({weights: class_names_in(cfg, described), cfg.DATASETS.TRAIN[0]: expected}, advice)


def _classes(cfg: CfgNode, dataset_name: str) -> list[str] | None:
    """The name of each class that the model learns, and whether it is a thing; None where it is not said."""
    names, segments = class_names_of(cfg, dataset_name), reads_segments(cfg)
    things = MetadataCatalog.get(dataset_name).get("thing_dataset_id_to_contiguous_id")
    if names is None or (segments and things is None):
        return None
    if not segments:
        return names
    return [f"{name} ({'a thing' if i in set(things.values()) else 'stuff'})" for i, name in enumerate(names)]
