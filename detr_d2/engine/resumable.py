"""Evaluation that goes on where one that was killed stopped."""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import shutil
import sys
import time
from base64 import b64decode, b64encode
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import detectron2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators, inference_on_dataset, print_csv_format
from detectron2.utils import comm
from torch import nn
from torch.utils import data as torchdata

from .._own_modules import IMPORT_VARIABLE
from ..evaluation import HotCOCOEvaluator, PanopticQualityEvaluator, SemanticEvaluator, UnifiedSemanticEvaluator
from ..evaluation.detections import Detections
from ..files import full_disk_named

# What is lost when a process is killed, in seconds.
PERIOD = 10.0
# Evaluators whose state is `_predictions` and these sums alone; a class made of them may have more.
_KEEPABLE = (HotCOCOEvaluator, PanopticQualityEvaluator, SemanticEvaluator, UnifiedSemanticEvaluator)
_SUMS = ("_conf_matrix", "_b_conf_matrix")
# What a dataset's metadata names of files and folders.
_PATHS = ("json_file", "image_root", "panoptic_json", "panoptic_root", "sem_seg_root")

_logger = logging.getLogger(__name__)


def evaluate_resumably(trainer: type[DefaultTrainer], cfg: CfgNode, model: nn.Module) -> OrderedDict[str, dict]:
    """`DefaultTrainer.test`, which goes on with what `forget_evaluation` has not removed."""
    results: OrderedDict[str, dict] = OrderedDict()
    for name in cfg.DATASETS.TEST:
        loader, evaluator = trainer.build_test_loader(cfg, name), trainer.build_evaluator(cfg, name)
        with contextlib.ExitStack() as stack:
            if can_be_kept(cfg, evaluator, loader):
                path = _folder(cfg, name) / f"{comm.get_rank()}-{_job(cfg, model, name, loader)}.jsonl"
                file = stack.enter_context(_claimed(path))
                evaluator = KeptEvaluation(evaluator, loader, file) if file else evaluator
            results[name] = inference_on_dataset(model, loader, evaluator)
        if comm.is_main_process():
            print_csv_format(results[name])
    return next(iter(results.values())) if len(results) == 1 else results


def forget_evaluation(cfg: CfgNode) -> None:
    """Remove what was kept for `evaluate_resumably`, in the first process, once all is done."""
    for name in cfg.DATASETS.TEST if comm.is_main_process() else ():
        shutil.rmtree(_folder(cfg, name), ignore_errors=True)


def can_be_kept(cfg: CfgNode, evaluator: DatasetEvaluator, loader: torchdata.DataLoader) -> bool:
    """Whether the folder is a local one, the batches of the loader are a list, and all of the evaluator is known."""
    known = all(type(part) in _KEEPABLE for part in _parts(evaluator))
    return known and isinstance(loader.batch_sampler, list) and "://" not in cfg.OUTPUT_DIR


class KeptEvaluation(DatasetEvaluator):
    """An evaluator that keeps what it has: every `PERIOD` seconds a line of JSON with what is new.

    It begins, once, with what the file holds.

    Args:
        evaluator: see `can_be_kept`.
        loader: of this process; the batches that are done are taken from it.
        file: of this process, and of the same model, data and settings, open for reading and writing.
    """

    def __init__(self, evaluator: DatasetEvaluator, loader: torchdata.DataLoader, file: BinaryIO) -> None:
        self.evaluator, self._file, self._done = evaluator, file, 0
        evaluator.reset()
        total, whole = len(loader.batch_sampler), 0
        for line in file:
            try:
                done, parts = self._read(line)
                if not self._done < done <= total:
                    raise ValueError(done)
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                _logger.warning(f"{file.name} is not whole: what follows its first {whole} bytes is evaluated again.")
                break
            for part, (predictions, sums) in zip(_parts(evaluator), parts, strict=True):
                part._predictions.extend(predictions)
                vars(part).update(sums)
            self._done, whole = done, whole + len(line)
        file.seek(whole)
        file.truncate()
        if self._done:
            _logger.warning(f"{self._done} of {total} batches were evaluated before: going on after them.")
        del loader.batch_sampler[: self._done]
        self._written, self._time = [len(part._predictions) for part in _parts(evaluator)], time.monotonic()

    def process(self, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> None:
        self.evaluator.process(inputs, outputs)
        self._done += 1
        if time.monotonic() - self._time >= PERIOD:
            self._write()

    def evaluate(self) -> Any:
        self._write()
        return self.evaluator.evaluate()

    def _write(self) -> None:
        if self._file is None:
            return
        parts = [
            {"predictions": part._predictions[start:], "sums": {key: vars(part)[key] for key in _sums(part)}}
            for part, start in zip(_parts(self.evaluator), self._written, strict=True)
        ]
        try:
            line = json.dumps({"done": self._done, "parts": parts}, default=_encoded)
        except TypeError:  # proposals, which are Detectron2's objects
            _logger.warning("Outputs of this kind are not kept: a killed evaluation begins anew.")
            self._file = None
            return
        with full_disk_named(self._file.name):
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        self._written, self._time = [len(part._predictions) for part in _parts(self.evaluator)], time.monotonic()

    def _read(self, line: bytes) -> tuple[int, list[tuple[list[Any], dict[str, np.ndarray]]]]:
        if not line.endswith(b"\n"):
            raise ValueError("half a line")
        content, parts = json.loads(line, object_hook=_decoded), []
        for part, state in zip(_parts(self.evaluator), content["parts"], strict=True):
            predictions = [Detections(*each) if isinstance(each, list) else each for each in state["predictions"]]
            names = [each["file_name"] for each in predictions if isinstance(each, dict) and "png" in each]
            if any(name != Path(name).name for name in names):
                raise ValueError("a path")
            sums = {key: state["sums"][key] for key in _sums(part)}
            if any(value.shape != vars(part)[key].shape for key, value in sums.items()):
                raise ValueError("another number of classes")
            parts.append((predictions, sums))
        return content["done"], parts


def _parts(evaluator: DatasetEvaluator) -> list[DatasetEvaluator]:
    return evaluator._evaluators if isinstance(evaluator, DatasetEvaluators) else [evaluator]


def _sums(part: DatasetEvaluator) -> list[str]:
    return [key for key in _SUMS if key in vars(part)]


def _encoded(value: Any) -> dict[str, Any]:
    """What JSON does not know, by `json.dumps`."""
    if isinstance(value, np.ndarray):
        return {"array": b64encode(value.tobytes()).decode(), "kind": value.dtype.str, "shape": value.shape}
    if isinstance(value, bytes):
        return {"bytes": b64encode(value).decode()}
    raise TypeError(type(value))


def _decoded(content: dict[str, Any]) -> Any:
    if content.keys() == {"array", "kind", "shape"}:
        return np.frombuffer(b64decode(content["array"]), content["kind"]).reshape(content["shape"]).copy()
    return b64decode(content["bytes"]) if content.keys() == {"bytes"} else content


def _folder(cfg: CfgNode, name: str) -> Path:
    return Path(cfg.OUTPUT_DIR, "inference", name, "unfinished")


@contextlib.contextmanager
def _claimed(path: Path) -> Iterator[BinaryIO | None]:
    """A file that no other process has; None where one has it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if others := [p.name for p in path.parent.glob(f"{path.name.partition('-')[0]}-*") if p.name != path.name]:
        _logger.warning(
            f"{path.parent} holds what another model, config, dataset or code left; it is not used: {others}."
        )
    if path.is_symlink() or (path.exists() and not path.is_file()):
        path.unlink()
    with open(path, "a+b") as file:
        file.seek(0)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _logger.warning(f"Another process does the same evaluation and keeps it in {path}: this one keeps nothing.")
            yield None
            return
        except OSError:  # a system that cannot lock
            pass
        yield file


def _job(cfg: CfgNode, model: nn.Module, name: str, loader: torchdata.DataLoader) -> str:
    """A short name of all that this process's results depend on: settings, data, weights, and the code of the model."""
    metadata = MetadataCatalog.get(name)
    files = [Path(path) for key in _PATHS if (path := metadata.get(key)) and os.path.exists(path)]
    modules = {type(module).__module__ for module in model.modules()}
    modules |= {"detr_d2", "detectron2"} | {
        Path(word).stem for word in os.environ.get(IMPORT_VARIABLE, "").split(os.pathsep)
    }
    for root in sorted({module.partition(".")[0] for module in modules} - {"torch"}):
        file = Path(getattr(sys.modules.get(root), "__file__", None) or os.devnull)
        files += sorted(file.parent.rglob("*.py")) if file.name == "__init__.py" else [file]
    stats = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    versions = torch.__version__, detectron2.__version__, np.__version__
    text = repr((cfg.dump(), name, comm.get_world_size(), loader.batch_sampler, stats, versions))
    job = hashlib.blake2b(text.encode(), digest_size=12)
    for key, value in model.state_dict().items():
        job.update(key.encode())
        if isinstance(value, torch.Tensor):
            job.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return job.hexdigest()
