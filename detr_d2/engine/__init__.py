"""Training and evaluation on Detectron2's trainer."""

from .amp import AMPTrainer, autocast
from .config import load_config, prepare_device
from .predictor import Predictor
from .trained_model import load_trained_model
from .trainer import Trainer

__all__ = ["AMPTrainer", "Predictor", "Trainer", "autocast", "load_config", "load_trained_model", "prepare_device"]
