"""Fixtures that several test files share."""

import argparse
import importlib.util
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

# Detectron2 and this package register their data sets below this folder when they are imported.
DATASETS = Path(tempfile.mkdtemp(prefix="detr_d2_datasets_"))
os.environ["DETECTRON2_DATASETS"] = str(DATASETS)

from detectron2.config import CfgNode  # noqa: E402
from detectron2.data import DatasetCatalog, MetadataCatalog  # noqa: E402
from detectron2.modeling import build_model  # noqa: E402

from detr_d2.data.datasets.shapes_generator import generate_shapes  # noqa: E402
from detr_d2.engine import load_config  # noqa: E402

REPO = Path(__file__).resolve().parents[1]
# Processes with start_method="forkserver" are forked from one that has imported the package, which takes longer
# than their work. This process cannot be forked, since autograd has threads in it.
multiprocessing.set_forkserver_preload(["detr_d2.engine"])


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
def load_tool() -> Callable[[str], ModuleType]:
    """``load_tool("compare")`` -> the module behind ``tools/compare.py``, whose ``main(argv)`` gives the status."""

    def load(name: str) -> ModuleType:
        if (REPO / "detr_d2" / "cli" / f"{name}.py").is_file():
            return importlib.import_module(f"detr_d2.cli.{name}")
        spec = importlib.util.spec_from_file_location(name, REPO / "tools" / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def parser_of(load_tool) -> Callable[[str], tuple[ModuleType, argparse.ArgumentParser]]:
    """``parser_of("compare")`` -> the script as a module, and the parser that its ``main`` uses for ``--help``."""
    known = {}

    def ask(name: str) -> tuple[ModuleType, argparse.ArgumentParser]:
        if name not in known:
            module, parsers = load_tool(name), []
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(argparse.ArgumentParser, "print_help", lambda parser, file=None: parsers.append(parser))
                patch.setattr("sys.argv", [f"tools/{name}.py", "--help"])
                with pytest.raises(SystemExit) as stop:
                    module.main()
            assert stop.value.code == 0
            known[name] = module, parsers[0]
        return known[name]

    return ask


@pytest.fixture(scope="session")
def options_of(parser_of) -> Callable[[str], set[str]]:
    """``options_of("compare")`` -> every ``--option`` of the script, those of its commands included."""

    def ask(name: str) -> set[str]:
        actions = parser_of(name)[1]._actions
        commands = [action for action in actions if isinstance(action, argparse._SubParsersAction)]
        actions = [*actions, *(a for c in commands for parser in c.choices.values() for a in parser._actions)]
        return {option for action in actions for option in action.option_strings}

    return ask


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
def own_data(tmp_path) -> Iterator[Callable[..., dict[str, str]]]:
    """``own_data(name, things, stuff=None, masks=True, images=6)`` -> an entry of ``DATASETS.CUSTOM``, whose files lie
    in ``tmp_path/name``: image i has i % 3 objects, its classes in turn. ``things`` and ``stuff``: category id -> name;
    with stuff, panoptic annotations of one stuff an image. What the test registered is forgotten after it.
    """
    before = set(DatasetCatalog)
    yield lambda *args, **kwargs: write_own_data(tmp_path, *args, **kwargs)
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="session")
def write_data() -> Callable[..., dict[str, str]]:
    """As `own_data`, with the folder as its first argument, for tests that share what they register."""
    return write_own_data


def write_own_data(
    folder: Path, name: str, things: dict, stuff: dict | None = None, *, masks: bool = True, images: int = 6
) -> dict[str, str]:
    root = folder / name
    for part in ("images", "panoptic"):
        (root / part).mkdir(parents=True)
    listed, objects, segments = [], [], []
    for i in range(images):
        height, width = (48, 64) if i % 2 else (64, 48)
        pixels, ids = np.full((height, width, 3), 40 * i % 256, np.uint8), np.zeros((height, width, 3), np.uint8)
        pixels[-1, -1] = 255  # no image is of one value
        ids[...] = (200, i, 0)
        found = [] if stuff is None else [{"id": 200 + 256 * i, "category_id": list(stuff)[i % len(stuff)]}]
        for j in range(i % 3):
            category, (x, y) = list(things)[len(objects) % len(things)], (2 + 20 * j, 3)
            pixels[y : y + 12, x : x + 16], ids[y : y + 12, x : x + 16] = 250 - 30 * j, (j + 1, i, 0)
            box = {"bbox": [x, y, 16, 12], "area": 192, "iscrowd": 0, "category_id": category}
            polygon = {"segmentation": [[x, y, x + 16, y, x + 16, y + 12, x, y + 12]]} if masks else {}
            objects.append({"id": 10 + len(objects), "image_id": 7 * i, **box, **polygon})
            found.append({"id": j + 1 + 256 * i, **box})
        for segment in found:
            segment["area"] = int((ids @ np.array([1, 256, 65536]) == segment["id"]).sum())
        Image.fromarray(pixels).save(root / "images" / f"{i}.png")
        Image.fromarray(ids).save(root / "panoptic" / f"{i}.png")
        listed.append({"id": 7 * i, "file_name": f"{i}.png", "height": height, "width": width})
        segments.append({"image_id": 7 * i, "file_name": f"{i}.png", "segments_info": found})
    categories = [{"id": i, "name": n, "isthing": 1} for i, n in reversed(things.items())]
    coco = {"images": listed, "annotations": objects, "categories": categories}
    (root / "boxes.json").write_text(json.dumps(coco))
    entry = {"name": name, "json_file": str(root / "boxes.json"), "image_root": str(root / "images")}
    if stuff is None:
        return entry
    categories = [*categories, *({"id": i, "name": n, "isthing": 0} for i, n in stuff.items())]
    (root / "panoptic.json").write_text(
        json.dumps({"images": listed, "annotations": segments, "categories": categories})
    )
    return entry | {"panoptic_json": str(root / "panoptic.json"), "panoptic_root": str(root / "panoptic")}


@pytest.fixture(scope="session")
def save_run() -> Callable[..., Path]:
    """``save_run(folder, "detr_R_18", *overrides, change=...)`` -> the checkpoint of a Shapes config with random
    weights, with ``config.yaml`` beside it, as training leaves them; ``change`` may edit the model before.
    """

    def save(folder: Path, name: str, *overrides: str, change: Callable[..., object] | None = None) -> Path:
        cfg = load_config(str(REPO / "configs" / "Shapes" / f"{name}.yaml"), list(overrides))
        torch.manual_seed(0)
        model = build_model(cfg)
        if change is not None:
            change(model)
        torch.save({"model": model.state_dict()}, folder / "model_final.pth")
        (folder / "config.yaml").write_text(cfg.dump())
        return folder / "model_final.pth"

    return save


@pytest.fixture(scope="session")
def narrow_cfg() -> Callable[..., CfgNode]:
    """``narrow_cfg("COCO-Detection/detr_R_50_300ep", *overrides)`` -> that cfg, see `narrow`."""
    return lambda name, *overrides: narrow(f"../{name}.yaml", *overrides)


def narrow(config: str, *overrides: object) -> CfgNode:
    """The cfg of a yaml of ``configs/COCO-Detection``, narrow, with three decoder layers and 12 queries."""
    small = [
        *["MODEL.WEIGHTS", "", "MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16"],
        *["MODEL.RESNETS.RES2_OUT_CHANNELS", "32", "MODEL.RESNETS.WIDTH_PER_GROUP", "8"],
        *["MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.NHEADS", "4", "MODEL.DETR.ENC_LAYERS", "2"],
        *["MODEL.DETR.DEC_LAYERS", "3", "MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "12"],
    ]
    return load_config(str(REPO / "configs" / "COCO-Detection" / config), [*small, *map(str, overrides)])


@pytest.fixture(scope="session")
def small_deformable_cfg() -> Callable[..., CfgNode]:
    """``small_deformable_cfg(variant="", *overrides)`` -> the cfg of ``deformable_detr_R_50{variant}.yaml``, narrow."""
    return lambda variant="", *overrides: narrow(f"deformable_detr_R_50{variant}.yaml", *overrides)


@pytest.fixture(scope="session")
def small_dino_cfg() -> Callable[..., CfgNode]:
    """``small_dino_cfg(variant="4scale_12ep", *overrides)`` -> the cfg of ``dino_R_50_{variant}.yaml``, narrow."""
    return lambda variant="4scale_12ep", *overrides: narrow(f"dino_R_50_{variant}.yaml", *overrides)


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
