"""The trainer: Detectron2's, with this package's loaders, optimizer, evaluators and checkpoints."""

import logging
import weakref
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.engine import DefaultTrainer, HookBase, TrainerBase, create_ddp_model, hooks
from detectron2.evaluation import DatasetEvaluator, verify_results
from detectron2.solver import LRMultiplier
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import EventStorage, EventWriter
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import setup_logger
from torch import nn

from ..checkpoint import DetrCheckpointer, check_frozen_weights, loading_options
from ..checkpoint.class_names import DATASET_METADATA_KEYS
from ..data import build_test_loader, build_train_loader, check_test_sets, register_datasets
from ..data.train_loader import mixed_seed
from ..evaluation import build_evaluator
from ..solver import build_optimizer, fitted_state, parameter_names
from ..solver.budget import fit_epochs
from .ema import build_average
from .hooks import BestCheckpointer, EarlyStopping, PreciseBNOfAverage, best_metric
from .recompute import recompute_activations
from .resumable import evaluate_resumably, forget_evaluation
from .run_folder import check_resumed_config, config_file, write_config
from .step import StepTrainer, autocast
from .validation import validation_losses
from .writers import build_writers, check_loggers


class Trainer(DefaultTrainer):
    """`DefaultTrainer` for every model of this package and for Detectron2's own.

    What it adds: several processes on CPUs; bf16 and fp16 on any device that has them; AdamW and whole-model clipping
    (``SOLVER.OPTIMIZER``); mappers by name (``INPUT.DATASET_MAPPER``); published checkpoints through ``MODEL.WEIGHTS``,
    written so that a killed run leaves the last good one; the best model by ``TEST.BEST_METRIC``; an average of the
    weights (``SOLVER.EMA``), evaluated in their place. A resumed run goes on as if it had not stopped: with the same
    images, augmentations and dropout.
    """

    def __init__(self, cfg: CfgNode) -> None:
        TrainerBase.__init__(self)  # DefaultTrainer's own __init__ builds a DDP model that refuses CPUs
        if not logging.getLogger("detectron2").isEnabledFor(logging.INFO):
            setup_logger()
        check_loggers(cfg)
        register_datasets(cfg, required=cfg.DATASETS.TRAIN)
        check_test_sets(cfg)  # now, not when the training is done
        batch, reference = cfg.SOLVER.IMS_PER_BATCH, cfg.SOLVER.REFERENCE_WORLD_SIZE
        if reference and batch % reference:
            raise ValueError(f"SOLVER.REFERENCE_WORLD_SIZE {reference} does not divide SOLVER.IMS_PER_BATCH {batch}.")
        cfg = self.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        data_loader = self.build_train_loader(cfg)
        num_images = getattr(data_loader, "num_images", None)
        cfg = fit_epochs(cfg, num_images)
        if num_images:
            data_loader.num_iterations = cfg.SOLVER.MAX_ITER  # before it begins
        self.epochs = num_images and cfg.SOLVER.MAX_ITER * cfg.SOLVER.IMS_PER_BATCH / num_images
        self.average = build_average(cfg, model)
        recompute_activations(cfg, model)
        model = wrap_ddp(model)
        self._trainer = StepTrainer(cfg, model, data_loader, optimizer)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0])
        classes = {key: value for key in DATASET_METADATA_KEYS if (value := metadata.get(key)) is not None}
        self.checkpointer = DetrCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            **loading_options(cfg),
            constants={"dataset_metadata": classes},
            trainer=weakref.proxy(self),
            **({} if self.average is None else {"ema": self.average}),
        )
        self.seed = comm.shared_random_seed()
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def resume_or_load(self, resume: bool = True) -> None:
        """As the parent's. Keys that differ from ``config.yaml`` of the run that is resumed are logged and obeyed.

        Raises:
            ValueError: a part of the model that is not trained got no weights, see `check_frozen_weights`; or the
                config is of another model or optimizer than the run, see `check_resumed_config`.
        """
        if resume and self.checkpointer.has_checkpoint():
            check_resumed_config(self.cfg)
        super().resume_or_load(resume=resume)
        check_frozen_weights(self.checkpointer)

    def train(self) -> OrderedDict[str, dict] | None:
        """As the parent's, whose end a hook may bring forward. ``config.yaml`` is written here, where the data and the
        weights are known to fit.
        """
        if comm.is_main_process():
            write_config(self.cfg)
        last = Path(self.checkpointer.get_checkpoint_file()).name
        if self.start_iter >= self.max_iter and last != "model_final.pth":  # killed between its last two checkpoints
            self.checkpointer.save("model_final", iteration=self.iter)
        logger = logging.getLogger("detectron2.engine.trainer")
        logger.info(f"Starting training from iteration {self.start_iter}")
        self.iter = self.start_iter
        with EventStorage(self.start_iter) as self.storage:
            try:
                self.before_train()
                self.iter = self.start_iter
                while self.iter < self.max_iter:  # which a hook may lower
                    self.before_step()
                    self.run_step()
                    self.after_step()
                    self.iter += 1
            except Exception:
                logger.exception("Exception during training:")
                raise
            finally:
                self.after_train()
        if not (self.cfg.TEST.CHECK_EXPECTED and comm.is_main_process()):
            return None
        verify_results(self.cfg, self._last_eval_results)
        return self._last_eval_results

    def before_train(self) -> None:
        """As the parent's. A checkpoint is written before it is evaluated, and the run may have been killed between."""
        super().before_train()
        if 0 < self.start_iter < self.max_iter:
            self.iter = self.storage.iter = self.start_iter - 1
            evaluation = (hooks.EvalHook, hooks.BestCheckpointer, EarlyStopping)  # which know whether it is their time
            for hook in self._hooks:
                if isinstance(hook, evaluation):
                    hook.after_step()

    def run_step(self) -> None:
        # What a step draws follows from these alone: a resumed run draws the same, whatever was evaluated between.
        seed_all_rng(mixed_seed(self.seed, self.iter, comm.get_rank()))
        try:
            super().run_step()
        except FloatingPointError as error:
            advice = " Lower SOLVER.BASE_LR, or clip gradients (SOLVER.CLIP_GRADIENTS)."  # the matcher says that, too
            raise FloatingPointError(f"{error}{'' if advice in str(error) else advice}") from error
        if self.average is not None:
            self.average.update_parameters(self.checkpointer.model)

    def after_step(self) -> None:
        super().after_step()
        if comm.is_main_process() and not PathManager.exists(config_file(self.cfg)):
            self.checkpointer.save(f"model_{self.iter:07d}", iteration=self.iter)
            write_config(self.cfg)
            raise FileNotFoundError(
                f"{self.cfg.OUTPUT_DIR} was removed or emptied while the job trained, and its log and metrics with it. "
                f"The state after iteration {self.iter} was saved there: go on with --resume."
            )

    def after_train(self) -> None:
        """As the parent's; after an error or an interrupt nothing is evaluated, only metrics are written."""
        self.iter = min(self.iter, self.max_iter)  # of a finished run that is resumed for less
        if self.iter < self.max_iter:
            self._hooks = [hook for hook in self._hooks if isinstance(hook, hooks.PeriodicWriter)]
        super().after_train()

    def state_dict(self) -> dict[str, Any]:
        state = super().state_dict()
        state["iteration"] = min(self.iter, self.max_iter - 1)  # the last that is done, in the final evaluation, too
        state["seed"] = self.seed
        if hasattr(self.data_loader, "state_dict"):
            state["data"] = self.data_loader.state_dict()
        state["_trainer"]["parameter_names"] = parameter_names(self.optimizer, self.checkpointer.model)
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` stopped, with the learning rates and other settings of this cfg."""
        state = state_dict["_trainer"]
        names = parameter_names(self.optimizer, self.checkpointer.model)
        state["optimizer"] = fitted_state(self.optimizer, names, state["optimizer"], state.get("parameter_names"))
        base_rates = self.scheduler.base_lrs
        super().load_state_dict(state_dict)
        self.scheduler.base_lrs = base_rates
        # Detectron2's scheduler computes a rate from the iteration; others may compute it from the last one.
        is_own = isinstance(self.scheduler, LRMultiplier)
        rates = self.scheduler.get_lr() if is_own else self.scheduler.get_last_lr()
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.seed = state_dict.get("seed", self.seed)
        if "data" in state_dict and hasattr(self.data_loader, "load_state_dict"):
            self.data_loader.load_state_dict(state_dict["data"])
        else:
            logging.getLogger(__name__).warning("The order of the data is not in the checkpoint: it begins anew.")

    def build_hooks(self) -> list[HookBase | None]:
        """Detectron2's hooks, with the average evaluated if there is one, and the best checkpoint where evaluation runs
        during training.
        """
        result = super().build_hooks()
        if self.average is not None:
            evaluation = hooks.EvalHook(self.cfg.TEST.EVAL_PERIOD, self.evaluate_average)
            result = [evaluation if isinstance(hook, hooks.EvalHook) else hook for hook in result]
            for place, hook in enumerate(result):
                if isinstance(hook, hooks.PreciseBN):
                    precise = PreciseBNOfAverage(hook, self.average.module, self.build_train_loader(self.cfg))
                    result.insert(place + 1, precise)
                    break
        best = None
        if self.cfg.TEST.EVAL_PERIOD > 0 and self.cfg.TEST.BEST_METRIC and comm.is_main_process():
            best = BestCheckpointer(self.cfg.TEST.EVAL_PERIOD, self.checkpointer, *best_metric(self.cfg))
            result.insert(-1, best)  # the last hook writes the metrics
        if self.cfg.SOLVER.EARLY_STOPPING:
            stopping = EarlyStopping(self.cfg, best)
            result.insert(len(result) - comm.is_main_process(), stopping)
        return result

    def build_writers(self) -> list[EventWriter]:
        return build_writers(self.cfg, self.max_iter, self.epochs)

    def evaluate_average(self) -> OrderedDict[str, dict]:
        """`test` of the average of the weights."""
        self._last_eval_results = self.test(self.cfg, self.average.module)
        return self._last_eval_results

    @classmethod
    def build_model(cls, cfg: CfgNode) -> nn.Module:
        """As the parent's. Every process that trains or evaluates comes here first, the spawned ones with nothing but
        the cfg, so this is where ``DATASETS.CUSTOM`` is registered.
        """
        register_datasets(cfg)
        return super().build_model(cfg)

    @classmethod
    def build_optimizer(cls, cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
        return build_optimizer(cfg, model)

    @classmethod
    def build_train_loader(cls, cfg: CfgNode):
        return build_train_loader(cfg)

    @classmethod
    def build_test_loader(cls, cfg: CfgNode, dataset_name: str):
        return build_test_loader(cfg, dataset_name)

    @classmethod
    def build_evaluator(cls, cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
        return build_evaluator(cfg, dataset_name)

    @classmethod
    def test(
        cls,
        cfg: CfgNode,
        model: nn.Module,
        evaluators: list[DatasetEvaluator] | None = None,
        *,
        resumable: bool = False,
    ) -> OrderedDict[str, dict]:
        """Evaluate on every dataset of ``DATASETS.TEST``, in the precision of ``SOLVER.AMP``; with ``TEST.LOSSES`` the
        results have ``losses``, too. A ``resumable`` evaluation goes on where a killed one stopped; it has no
        ``evaluators``.
        """
        with autocast(cfg):
            results = evaluate_resumably(cls, cfg, model) if resumable else super().test(cfg, model, evaluators)
            for name in cfg.DATASETS.TEST if cfg.TEST.LOSSES else ():
                losses = validation_losses(cfg, model, name)
                if comm.is_main_process():
                    (results if len(cfg.DATASETS.TEST) == 1 else results[name])["losses"] = losses
        if resumable:
            forget_evaluation(cfg)
        return results


def wrap_ddp(model: nn.Module) -> nn.Module:
    """DistributedDataParallel around a model on any device, where there is more than one process."""
    on_cpu = next(model.parameters()).device.type == "cpu"
    devices = None if on_cpu else [torch.cuda.current_device()]
    return create_ddp_model(model, broadcast_buffers=False, device_ids=devices)
