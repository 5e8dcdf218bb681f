"""Fixtures that several test files share."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

# Detectron2 and this package register their data sets below this folder when they are imported.
DATASETS = Path(tempfile.mkdtemp(prefix="detr_d2_datasets_"))
os.environ["DETECTRON2_DATASETS"] = str(DATASETS)

from detectron2.config import CfgNode  # noqa: E402

from detr_d2.data.datasets.shapes_generator import generate_shapes  # noqa: E402
from detr_d2.engine import load_config  # noqa: E402

REPO = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def _remove_datasets() -> Iterator[None]:
    yield
    shutil.rmtree(DATASETS, ignore_errors=True)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Small models run fastest on one thread, and several test processes share the cores."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of this checkout."""
    return REPO


@pytest.fixture(scope="session")
def coco_root() -> Path:
    """A folder that ``DETECTRON2_DATASETS`` may point to, with COCO images in it."""
    root = Path(os.environ.get("DETR_D2_TEST_DATASETS", REPO.parent / "shared" / "datasets"))
    if not (root / "coco" / "annotations" / "instances_val2017.json").is_file():
        pytest.skip(f"needs COCO images in {root} (set DETR_D2_TEST_DATASETS)")
    if not (DATASETS / "coco").exists():
        (DATASETS / "coco").symlink_to(root / "coco")
    return root


@pytest.fixture(scope="session")
def shapes_root() -> Path:
    """The folder of ``DETECTRON2_DATASETS``, with a few Shapes images as ``shapes_train`` and ``shapes_val``."""
    generate_shapes(DATASETS, split="train", num_images=24)
    generate_shapes(DATASETS, split="val", num_images=8)
    return DATASETS


@pytest.fixture
def small_deformable_cfg() -> Callable[..., CfgNode]:
    """``small_deformable_cfg(variant="", *overrides)`` -> the cfg of ``deformable_detr_R_50{variant}.yaml``, narrow."""

    def build(variant: str = "", *overrides: object) -> CfgNode:
        small = [
            *["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"],
            *["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"],
            *["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4", "MODEL.DETR.ENC_LAYERS", "2"],
            *["MODEL.DETR.DEC_LAYERS", "3", "MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "12"],
        ]
        path = REPO / "configs" / "COCO-Detection" / f"deformable_detr_R_50{variant}.yaml"
        return load_config(str(path), [*small, *map(str, overrides)])

    return build


@pytest.fixture
def small_detr_cfg() -> CfgNode:
    """A DETR with the published structure at a fraction of its width."""
    cfg = load_config(
        str(REPO / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"),
        [
            *["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"],
            *["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"],
            *["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4", "MODEL.DETR.ENC_LAYERS", "2"],
            *["MODEL.DETR.DEC_LAYERS", "3", "MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "12"],
        ],
    )
    cfg.freeze()
    return cfg


@pytest.fixture
def small_fcos_cfg() -> CfgNode:
    """The improved FCOS with the published structure at a fraction of its width."""
    cfg = load_config(
        str(REPO / "configs" / "COCO-Detection" / "fcos_imprv_R_50_1x.yaml"),
        [
            *["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8"],
            *["MODEL.RESNETS.RES2_OUT_CHANNELS", "16", "MODEL.RESNETS.WIDTH_PER_GROUP", "4"],
            *["MODEL.FPN.OUT_CHANNELS", "64", "MODEL.PIXEL_STD", "[57.0, 57.0, 57.0]"],
        ],
    )
    cfg.freeze()
    return cfg
