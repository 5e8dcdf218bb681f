"""Training and evaluation on Detectron2's trainer."""

from .budget import fit_minutes
from .config import load_config, prepare_device
from .environment import described_group, restarted_job
from .launch import launch
from .predictor import Predictor
from .run_folder import claimed_folder
from .screen import quiet_screen
from .step import StepTrainer, autocast
from .trained_model import load_trained_model
from .trainer import Trainer
