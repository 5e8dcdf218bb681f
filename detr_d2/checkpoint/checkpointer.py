"""Detectron2's checkpointer for published weights of every layout, strict, and safe against crashes."""

import itertools
import os
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import parse_qs, urlparse

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.checkpoint.c2_model_loading import align_and_update_state_dicts
from detectron2.config import CfgNode
from fvcore.common.checkpoint import _IncompatibleKeys
from torch import Tensor, nn

from ..files import refuse_special, whole_file
from .diagnosis import check_family
from .huggingface import weights_in_folder
from .layouts import unwrapped
from .layouts.detr import OURS
from .names import bare_names, bare_state
from .planning import LoadPlan, plan_load, reinit_parts
from .reading import UnreadableCheckpoint, WeightsFrom, check_sums, is_good, read_checkpoint
from .report import LoadReport, group_names
from .writing import portable


def loading_options(cfg: CfgNode) -> dict[str, Any]:
    """What a cfg says of how weights are loaded, as arguments of `DetrCheckpointer`."""
    return {"reinit": reinit_parts(cfg), "weights_from": cfg.MODEL.WEIGHTS_FROM}


class DetrCheckpointer(DetectionCheckpointer):
    """A `DetectionCheckpointer` that also reads published DETR checkpoints and torchvision's ResNets as they are.

    The layout is recognised from the keys (`detr_d2.checkpoint.layouts`). A checkpoint of a whole model, or of a ResNet
    backbone, must fit in full: otherwise nothing is copied, and the error says which cfg key to change. Any other
    checkpoint is loaded as Detectron2 does. No file can run code.

    A checkpoint is written under a temporary name and renamed: a run killed at any moment leaves the previous one.

    Args:
        model: a module, or one wrapped in DistributedDataParallel.
        save_dir: where to save, and to look for the checkpoint to resume from.
        save_to_disk: defaults to True in the main process only.
        reinit: parts of `detr_d2.checkpoint.planning.REINIT`, "class_head" or "queries", that keep their initial values
            where the weights have others (fine-tuning).
        weights_from: see `read_checkpoint`; resuming other states too takes what training goes on with.
        constants: written into every checkpoint beside the model, and never loaded.
        checkpointables: other objects to save and load, as in fvcore's ``Checkpointer``.

    Attributes:
        last_report: what the last `load` did; None before, and after one that failed.
    """

    def __init__(
        self,
        model: nn.Module,
        save_dir: str = "",
        *,
        save_to_disk: bool | None = None,
        reinit: Collection[str] = (),
        weights_from: WeightsFrom = "auto",
        constants: Mapping[str, Any] | None = None,
        **checkpointables: Any,
    ) -> None:
        super().__init__(model, save_dir, save_to_disk=save_to_disk, **checkpointables)
        self.weights_from = weights_from
        self.reinit = reinit
        self.constants = dict(constants or {})
        self.last_report: LoadReport | None = None
        self._source = ""

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """Load weights, and other objects' states if the checkpoint was written by Detectron2 or this package.

        Args:
            path: a file, a folder of ``transformers``, a URL, or a name that Detectron2's PathManager knows
                (``detectron2://``, ``torchvision://``); "" loads nothing.
            checkpointables: names of the other objects to load; None: all that the file holds.

        Returns:
            What else the checkpoint holds.

        Raises:
            FileNotFoundError: the file does not exist or cannot be fetched.
            UnreadableCheckpoint: (a ValueError) the file is no readable checkpoint; the model is as it was.
            ValueError: the weights do not fit the model; the model is as it was.
        """
        self.last_report = None
        self._source = os.fspath(path) if path else ""
        if self._source:
            self._source = self._require_file(self._source)
        try:
            return super().load(self._source, checkpointables)
        finally:
            self._parsed_url_during_load = None  # the parent leaves it set after an error, and then refuses

    def resume_or_load(self, path: str, *, resume: bool = True) -> dict[str, Any]:
        """As the parent's; where the checkpoint to resume from is missing or damaged, the error names good ones."""
        if not (resume and self.has_checkpoint()):
            return self.load(path, checkpointables=[])
        last = self.get_checkpoint_file()
        if self.checkpointables:  # training goes on, otherwise the last checkpoint is but looked at
            self.weights_from = "model"
        try:
            if self._save_dir_is_local() and os.path.isfile(last):
                check_sums(last)
            return self.load(last)
        except (FileNotFoundError, UnreadableCheckpoint) as error:
            tag = os.path.join(self.save_dir, "last_checkpoint")
            others = (file for file in self._newest_first() if file != last and is_good(file))
            good = [os.path.basename(file) for file in itertools.islice(others, 3)]
            advice = f"write one of {', '.join(good)} (newest first) into {tag}" if good else f"remove {tag}"
            raise type(error)(f"Cannot resume from {last}, which {tag} names: {error} To go on, {advice}.") from error

    def get_checkpoint_file(self) -> str:
        """As the parent's, which would wait for a pipe."""
        refuse_special(os.path.join(self.save_dir, "last_checkpoint"))
        return super().get_checkpoint_file()

    def save(self, name: str, **kwargs: Any) -> None:
        """Write ``save_dir/name.pth`` and tag it as the last checkpoint; each is complete, or as it was before.

        Args:
            name: without extension.
            kwargs: extra state to save.

        Raises:
            TypeError: a state holds an object that ``torch.load(weights_only=True)`` could not read back.
            FloatingPointError: a weight is NaN or infinite; nothing is written.
            OSError: the disk is full.
        """
        if not self.save_dir or not self.save_to_disk:
            return
        broken = [key for key, weight in self.model.named_parameters() if not weight.isfinite().all()]
        if broken:
            raise FloatingPointError(
                f"{name} was not saved: {len(broken)} weights are NaN or infinite ({group_names(broken, 3)}). "
                "Training has diverged: lower SOLVER.BASE_LR, or clip gradients (SOLVER.CLIP_GRADIENTS)."
            )
        if not self._save_dir_is_local():
            super().save(name, **self.constants | kwargs)
            return
        extra = self.constants | {key: item.state_dict() for key, item in self.checkpointables.items()} | kwargs
        data = {"model": self.model.state_dict()} | {key: portable(value, key) for key, value in extra.items()}

        file = os.path.join(self.save_dir, f"{name}.pth")
        if os.path.basename(file) != f"{name}.pth":
            raise ValueError(f"The name of a checkpoint is a file name without folders, not {name!r}.")
        self.logger.info(f"Saving checkpoint to {file}")
        with whole_file(file) as partial, partial.open("wb") as stream:  # else torch hides the error of a full disk
            torch.save(data, stream)
        self.tag_last_checkpoint(f"{name}.pth")

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        """Write the name of the checkpoint to resume from."""
        if not self._save_dir_is_local():
            super().tag_last_checkpoint(last_filename_basename)
            return
        with whole_file(os.path.join(self.save_dir, "last_checkpoint")) as partial:
            partial.write_text(last_filename_basename)

    def _save_dir_is_local(self) -> bool:
        return "://" not in self.save_dir

    def _newest_first(self) -> list[str]:
        """The checkpoints of a local ``save_dir``."""
        if not self._save_dir_is_local():
            return []
        files = [file for file in self.get_all_checkpoint_files() if not os.path.basename(file).startswith(".")]
        return sorted(files, key=os.path.getmtime, reverse=True)

    def _require_file(self, path: str) -> str:
        """``path``, or the file of weights in it where it is a folder."""
        bare_path = urlparse(path)._replace(query="").geturl()
        try:
            local = self.path_manager.get_local_path(bare_path)
        except (OSError, KeyError, RuntimeError) as error:  # what the handlers of URLs and catalogs raise
            raise FileNotFoundError(f"MODEL.WEIGHTS: {path} cannot be fetched: {error}") from error
        if os.path.isdir(local):
            try:
                return weights_in_folder(local)
            except (OSError, ValueError) as error:
                raise type(error)(f"MODEL.WEIGHTS: {error}") from error
        if not os.path.isfile(local):
            raise FileNotFoundError(f"MODEL.WEIGHTS: the checkpoint {path} does not exist.")
        return path

    def _load_file(self, filename: str) -> dict[str, Any]:
        queries = parse_qs(urlparse(self._source).query)
        heuristics = queries.pop("matching_heuristics", ["False"]) == ["True"]
        if queries:
            raise ValueError(f"MODEL.WEIGHTS: {self._source} has an unknown query {', '.join(queries)}.")
        checkpoint = read_checkpoint(filename, self.weights_from)
        if heuristics:
            checkpoint["matching_heuristics"] = True
        return checkpoint

    def _load_model(self, checkpoint: dict[str, Any]) -> _IncompatibleKeys | None:
        model = self.model.state_dict()
        name, reinit = type(self.model).__name__, self.reinit
        plan = plan_load(unwrapped(checkpoint["model"]), model, source=self._source, model_name=name, reinit=reinit)
        if plan is None:
            return self._load_as_detectron2(checkpoint, model)
        self._apply(plan, checkpoint)
        return None  # to the parent class: there is nothing more to log

    def _apply(self, plan: LoadPlan, checkpoint: dict[str, Any]) -> None:
        metadata = getattr(checkpoint.pop("model"), "_metadata", None)
        state, is_ours = OrderedDict(plan.state), plan.layout is OURS
        if metadata is not None and is_ours:
            state._metadata = self._versions(metadata)  # by names that only our own layout keeps
        self.model.load_state_dict(state, strict=False)
        for name in self.checkpointables:
            if not is_ours and checkpoint.pop(name, None) is not None:
                self.logger.warning(f"The {name} state of {self._source} is not loaded: another program wrote it.")
        self._publish(plan.report)
        if plan.layout.scope == "model":
            self._warn_about_dilation(is_ours=is_ours)

    def _versions(self, metadata: Mapping[str, Any]) -> dict[str, Any]:
        """Modules' versions in a checkpoint of our layout, by the model's names of the modules."""
        metadata, names = bare_state(metadata), bare_names(name for name, _ in self.model.named_modules())
        return {name: metadata[bare] for bare, name in names.items() if bare in metadata}

    def _load_as_detectron2(self, checkpoint: dict[str, Any], model: dict[str, Tensor]) -> _IncompatibleKeys:
        heuristics = checkpoint.pop("matching_heuristics", False)
        if heuristics:
            is_caffe2 = checkpoint.get("__author__") == "Caffe2"
            checkpoint["model"] = align_and_update_state_dicts(model, checkpoint["model"], c2_conversion=is_caffe2)
        state = unwrapped(checkpoint["model"])
        if model and not any(key in model and model[key].shape == value.shape for key, value in state.items()):
            reason = check_family(bare_names(state), bare_names(model), type(self.model).__name__) or (
                "set MODEL.META_ARCHITECTURE and MODEL.BACKBONE.NAME to what the weights were trained with"
            )
            raise ValueError(
                f"{self._source} holds no tensor of the model, a {type(self.model).__name__}; nothing was loaded: "
                f"{reason}. It holds {group_names(state, 4)}."
            )
        incompatible = super()._load_model(checkpoint)
        if heuristics:
            checkpoint["matching_heuristics"] = True  # `load` returns it, as the parent's does
        mismatched = tuple(key for key, *_ in incompatible.incorrect_shapes)
        absent = {*incompatible.missing_keys, *mismatched}
        self._publish(
            LoadReport(
                source=self._source,
                layout="Detectron2",
                loaded=tuple(key for key in model if key not in absent),
                missing=tuple(key for key in incompatible.missing_keys if key not in mismatched),
                unexpected=tuple(incompatible.unexpected_keys),
                mismatched=mismatched,
            )
        )
        return incompatible

    def _publish(self, report: LoadReport) -> None:
        self.last_report = report
        log = self.logger.warning if report.unexpected or report.mismatched else self.logger.info
        log(f"Loaded {report}")

    def _warn_about_dilation(self, *, is_ours: bool) -> None:
        """DC5 weights have the shapes of plain ones: only a published file's name tells them apart."""
        backbone = getattr(getattr(self.model, "detr", self.model), "backbone", None)
        res5 = backbone.output_shape().get("res5") if hasattr(backbone, "output_shape") else None
        if res5 is None:
            return
        says_dc5 = "dc5" in os.path.basename(urlparse(self._source).path).lower()
        if says_dc5 and res5.stride == 32:
            self.logger.warning(
                f"{self._source} seems to hold DC5 weights, but the backbone's stride is 32: "
                "set MODEL.RESNETS.RES5_DILATION 2."
            )
        elif not says_dc5 and res5.stride == 16 and not is_ours:
            self.logger.warning(
                f"The name of {self._source} does not say DC5, but the backbone's stride is 16: for weights of the "
                "plain model, set MODEL.RESNETS.RES5_DILATION 1."
            )
