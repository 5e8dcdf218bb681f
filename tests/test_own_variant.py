"""Models of somebody's own, in a file outside of the package: every tool takes them for what they are."""

import argparse
import csv
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY

from detr_d2 import Predictor
from detr_d2._own_modules import IMPORT_VARIABLE, import_own_modules
from detr_d2.config import _OWN_KEYS
from detr_d2.facts import facts_of

OWN_FILE = '''
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN

from detr_d2.config import extends_config
from detr_d2.modeling import DETR, FCOS, DeformableDETR, PanopticDETR

@extends_config
def add_mine(cfg):
    cfg.MODEL.MINE = CfgNode({"GAIN": 1.0})

@META_ARCH_REGISTRY.register()
class MyDETR(DETR):
    """The one with a key of its own."""

    @classmethod
    def from_config(cls, cfg):
        assert cfg.MODEL.MINE.GAIN == 2.0
        return super().from_config(cfg)

@META_ARCH_REGISTRY.register()
class MyPanopticDETR(PanopticDETR):
    pass

@META_ARCH_REGISTRY.register()
class MyDeformableDETR(DeformableDETR):
    pass

@META_ARCH_REGISTRY.register()
class MyPanopticDeformableDETR(META_ARCH_REGISTRY.get("PanopticDeformableDETR")):
    pass

@META_ARCH_REGISTRY.register()
class MyFCOS(FCOS):
    pass

@META_ARCH_REGISTRY.register()
class MyRCNN(GeneralizedRCNN):
    pass
'''


@dataclass
class Family:
    """What a renamed model is to be taken for.

    Attributes:
        config: of the Shapes dataset, for its parent.
        keys: of its own.
        is_panoptic, has_attention: as its parent.
        queries: the key that limits the objects of an image.
        head: parameter of the class head, and how many rows it has for each class and beside these.
        classes: what it learns of the own data: 2 things, and with panoptic segments 1 stuff.
    """

    config: str
    head: str
    rows: tuple[int, int] = (1, 0)
    is_panoptic: bool = False
    has_attention: bool = True
    queries: str = "MODEL.DETR.NUM_OBJECT_QUERIES"
    keys: dict = field(default_factory=dict)

    @property
    def classes(self) -> int:
        return 3 if self.is_panoptic else 2


DENSE = {"has_attention": False, "queries": ""}
FAMILIES = {
    "MyDETR": Family("detr_R_18", "class_embed.weight", (1, 1), keys={"MINE": {"GAIN": 2.0}}),
    "MyPanopticDETR": Family("panoptic_detr_R_18", "class_embed.weight", (1, 1), is_panoptic=True),
    "MyDeformableDETR": Family("deformable_detr_R_18", "class_embed.1.weight"),
    "MyPanopticDeformableDETR": Family("panoptic_deformable_detr_R_18", "class_embed.1.weight", is_panoptic=True),
    "MyFCOS": Family("fcos_R_18", "cls_logits.weight", **DENSE),
    "MyRCNN": Family("faster_rcnn_R_18", "cls_score.weight", (1, 1), **DENSE),
}
by_name = pytest.mark.parametrize("name", FAMILIES)

TINY = {
    "DEVICE": "cpu",
    "RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8},
    "DETR": {
        "HIDDEN_DIM": 32,
        "NHEADS": 4,
        "ENC_LAYERS": 1,
        "DEC_LAYERS": 2,
        "DIM_FEEDFORWARD": 32,
        "NUM_OBJECT_QUERIES": 12,
    },
    "FPN": {"OUT_CHANNELS": 32},
    "FCOS": {"NUM_CONVS": 1, "SCORE_THRESH_TEST": 0.0, "TOPK_CANDIDATES_TEST": 20},
    # Of Detectron2's own keys the default, 80, is what follows the data; the config of Shapes states 4.
    "ROI_HEADS": {"NUM_CLASSES": 80, "SCORE_THRESH_TEST": 0.0, "BATCH_SIZE_PER_IMAGE": 16},
    "ROI_BOX_HEAD": {"FC_DIM": 16},
    "PANOPTIC_DETR": {"OBJECT_MASK_THRESHOLD": 0.05},
}


@pytest.fixture(scope="module", autouse=True)
def own_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's file, imported as the tools import it; all that it registers is forgotten afterwards."""
    path = tmp_path_factory.mktemp("elsewhere") / "my_models.py"
    path.write_text(OWN_FILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(IMPORT_VARIABLE, str(path))
        patch.setattr(sys, "path", sys.path[:])
        import_own_modules()
        yield path
    for name in FAMILIES:
        META_ARCH_REGISTRY._obj_map.pop(name)
    _OWN_KEYS.clear()
    del sys.modules["my_models"]


@pytest.fixture(scope="module")
def configs(write_data, repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """A config of each model on data of its user's, which say nothing of the number of classes."""
    folder, before = tmp_path_factory.mktemp("configs"), set(DatasetCatalog)
    things, stuff = {3: "cat", 17: "dog"}, {40: "sky"}
    entries = {False: write_data(folder, "mine", things), True: write_data(folder, "mine_panoptic", things, stuff)}
    paths = {}
    for name, family in FAMILIES.items():
        entry = entries[family.is_panoptic]
        paths[name] = folder / f"{name}.yaml"
        config = {
            "_BASE_": str(repo / "configs" / "Shapes" / f"{family.config}.yaml"),
            "MODEL": {**TINY, "META_ARCHITECTURE": name, **family.keys},
            "DATASETS": {"CUSTOM": [entry], "TRAIN": [entry["name"]], "TEST": [entry["name"]]},
            "INPUT": {"MIN_SIZE_TRAIN": [64], "MIN_SIZE_TEST": 64, "MAX_SIZE_TEST": 96},
            "DATALOADER": {"NUM_WORKERS": 0},
            "SOLVER": {"IMS_PER_BATCH": 2, "MAX_ITER": 1, "WARMUP_ITERS": 0, "CHECKPOINT_PERIOD": 5},
            "TEST": {"EVAL_PERIOD": 0},
            "OUTPUT_DIR": str(folder / name),
        }
        paths[name].write_text(yaml.safe_dump(config))
    yield paths
    for name in set(DatasetCatalog) - before:
        DatasetCatalog.remove(name)
        MetadataCatalog.pop(name, None)


@pytest.fixture(scope="module")
def trained(configs: dict[str, Path], load_tool) -> dict[str, Path]:
    """The output folder of one iteration and an evaluation of each model."""
    for path in configs.values():
        assert load_tool("train_net").main(["--config-file", str(path)]) == 0
    return {name: path.with_suffix("") for name, path in configs.items()}


@pytest.fixture
def image(configs: dict[str, Path]) -> str:
    return str(next(iter(configs.values())).parent / "mine" / "images" / "2.png")


def config_words(folder: Path) -> list[str]:
    """The words that name a trained model to a tool."""
    return ["--config-file", str(folder / "config.yaml"), "MODEL.WEIGHTS", str(folder / "model_final.pth")]


@by_name
def test_facts_are_the_parents(name: str) -> None:
    own = META_ARCH_REGISTRY.get(name)
    assert own.__module__ == "my_models"
    assert facts_of(own) == facts_of(own.__mro__[1])


@by_name
def test_it_is_trained_on_the_classes_of_the_data(name: str, trained: dict[str, Path]) -> None:
    family, folder = FAMILIES[name], trained[name]
    state = torch.load(folder / "model_final.pth", weights_only=True)
    assert state["dataset_metadata"]["thing_classes"] == ["cat", "dog"]
    heads = [value for key, value in state["model"].items() if f".{key}".endswith(f".{family.head}")]
    of_each, beside = family.rows
    assert {len(head) for head in heads} == {of_each * family.classes + beside}
    metrics = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    assert "bbox/AP" in metrics[-1]
    assert ("panoptic_seg/PQ" in metrics[-1]) == family.is_panoptic


@by_name
def test_checks_of_the_data_know_what_it_demands(name: str, configs, load_tool, tmp_path: Path, capsys) -> None:
    check, config = load_tool("check_dataset").main, yaml.safe_load(configs[name].read_text())
    assert check(["--config-file", str(configs[name])]) == 0
    (entry,) = config["DATASETS"]["CUSTOM"]
    many = {**entry, "name": f"many_{name}", "json_file": str(tmp_path / "many.json")}
    boxes = json.loads(Path(entry["json_file"]).read_text())
    boxes["annotations"] = [{**boxes["annotations"][0], "id": i} for i in range(300)]
    Path(many["json_file"]).write_text(json.dumps(boxes))
    if FAMILIES[name].is_panoptic:  # objects are segments there
        return
    config["DATASETS"] = {"CUSTOM": [many], "TRAIN": [many["name"]], "TEST": [many["name"]]}
    (tmp_path / "many.yaml").write_text(yaml.safe_dump(config))
    capsys.readouterr()
    status, limit = check(["--config-file", str(tmp_path / "many.yaml")]), FAMILIES[name].queries
    printed = capsys.readouterr().out
    DatasetCatalog.remove(many["name"])
    assert (status, limit in printed) == ((1, True) if limit else (0, True))


@by_name
def test_another_number_of_classes_is_refused(name: str, configs, load_tool, tmp_path: Path, capsys) -> None:
    keys = {"MyFCOS": "MODEL.FCOS", "MyRCNN": "MODEL.ROI_HEADS"}
    words = ["--config-file", str(configs[name]), f"{keys.get(name, 'MODEL.DETR')}.NUM_CLASSES", "7"]
    words += ["OUTPUT_DIR", str(tmp_path)]
    assert load_tool("train_net").main(words) == 1
    assert "NUM_CLASSES is 7" in capsys.readouterr().err


def test_the_evaluation_of_a_saved_run(trained: dict[str, Path], load_tool) -> None:
    for folder in trained.values():
        config, *weights = config_words(folder)[1:]
        assert load_tool("train_net").main(["--config-file", config, "--eval-only", *weights]) == 0


def test_all_in_one_comparison(trained: dict[str, Path], load_tool, tmp_path: Path) -> None:
    quick = [*["--images", "1", "--batch-size", "1", "--train-batch-size", "1", "--rounds", "1", "--train-steps", "1"]]
    quick += ["--resamples", "3", "--threads", "1", "--parts", "accuracy", "flops", "latency", "training"]
    words = [f"{name}={folder}" for name, folder in trained.items() if not FAMILIES[name].is_panoptic]
    assert load_tool("compare").main([*words, "--output", str(tmp_path), *quick]) == 0
    rows = {row["model"]: row for row in csv.DictReader((tmp_path / "comparison.csv").open())}
    assert set(rows) == {name for name in FAMILIES if not FAMILIES[name].is_panoptic}
    for row in rows.values():
        assert float(row["GFLOPs (multiply-adds), mean [measured]"]) > 0


@by_name
def test_benchmark(name: str, configs, load_tool, tmp_path: Path) -> None:
    words = ["--size", "64", "96", "--rounds", "1", "--iters", "1", "--warmup", "1", "--no-memory", "--mode", "both"]
    words += ["--output", str(tmp_path / "report.json"), "--threads", "1"]
    assert load_tool("benchmark").main(["--config-file", str(configs[name]), *words]) == 0
    report = json.loads((tmp_path / "report.json").read_text())
    assert set(report["results"]) == {"inference", "train"}


@by_name
def test_export(name: str, trained: dict[str, Path], load_tool, image: str, tmp_path: Path, capsys) -> None:
    """ONNX of two, which takes long to write, and torch's own program of the others."""
    is_onnx = name in ("MyDETR", "MyPanopticDETR")
    output = tmp_path / ("model.onnx" if is_onnx else "model.pt2")
    words = [*config_words(trained[name]), "MODEL.FCOS.SCORE_THRESH_TEST", "0.001"]  # in noise it would find nothing
    words += ["--format", "onnx" if is_onnx else "torch_export", "--output", str(output), "--size", "64", "96"]
    words += ["--batch", "1", "--tolerance", "1e-3"]
    words += ["--max-detections", "5"] if FAMILIES[name].is_panoptic else []
    status = load_tool("export").main(words)
    if name == "MyRCNN":
        assert status == 1
        assert "MyRCNN cannot be exported" in capsys.readouterr().err
        return
    assert status == 0
    if not is_onnx:
        return
    assert load_tool("run_onnx").main([str(output), image, "--threshold", "0", "--json", str(tmp_path / "x.json")]) == 0
    assert {row["class"] for row in json.loads((tmp_path / "x.json").read_text())} <= {"cat", "dog", "sky"}


@by_name
def test_demo_and_predictor(name: str, trained: dict[str, Path], load_tool, image: str, tmp_path: Path) -> None:
    weights, panoptic = str(trained[name] / "model_final.pth"), FAMILIES[name].is_panoptic
    words = ["--weights", weights, "--input", image, "--threshold", "0", "--output", str(tmp_path / "drawn.png")]
    words += ["--json", str(tmp_path / "boxes.json")]
    words += ["--panoptic-json", str(tmp_path / "segments.json")] if panoptic else []
    assert load_tool("demo").main(words) == 0
    assert cv2.imread(str(tmp_path / "drawn.png")).std() > 1
    assert {found["category_id"] for found in json.loads((tmp_path / "boxes.json").read_text())} <= {3, 17}
    predictor = Predictor(weights)
    assert predictor.metadata.thing_classes == ["cat", "dog"]
    assert ("panoptic_seg" in predictor(image)) == panoptic


@by_name
def test_pictures(name: str, trained: dict[str, Path], load_tool, image: str, tmp_path: Path, capsys) -> None:
    family, folder = FAMILIES[name], trained[name]
    config, weights = ["--config-file", str(folder / "config.yaml")], config_words(folder)[2:]
    sheet = ["--output", str(tmp_path / "sheet.png"), "--height", "40"]
    assert load_tool("visualize_data").main([*config, *sheet, "--num", "1"]) == 0
    attention = [*config, *weights, "--input", image, *sheet, "--num-queries", "1", "--encoder-points", "0.5,0.5"]
    status = load_tool("visualize_attention").main(attention)
    assert status == (0 if family.has_attention else 1), capsys.readouterr().err

    dataset = "mine_panoptic" if family.is_panoptic else "mine"
    results = folder / "inference" / dataset
    words = ["--input", str(results / "coco_instances_results.json"), "--dataset", dataset, "--data-config", config[1]]
    assert load_tool("visualize_results").main([*words, *sheet, "--num", "1", "--threshold", "0"]) == 0
    words[1] = str(results / ("panoptic_predictions.json" if family.is_panoptic else "coco_instances_results.json"))
    assert load_tool("analyze_errors").main([*words, "--output", str(tmp_path / "errors"), "--worst", "1"]) == 0
    if family.is_panoptic:
        assert load_tool("visualize_results").main([*words, *sheet, "--num", "1", "--queries", "2", *weights]) == 0


def test_the_environment_variable_is_enough(configs, own_file: Path, repo: Path, tmp_path: Path) -> None:
    environment = {**os.environ, IMPORT_VARIABLE: str(own_file), "PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(repo / "tools" / "check_dataset.py"), "--config-file", str(configs["MyDETR"])]
    process = subprocess.run(command, env=environment, cwd=tmp_path, text=True, capture_output=True)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("nowhere/x.py", "nowhere/x.py, which is no file"),
        ("no_such_module", "'no_such_module', which is no module"),
        ("argparse.py", "argparse is another module's name"),
    ],
)
def test_what_cannot_be_imported_is_named(word: str, message: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path[:])
    Path("argparse.py").write_text("")
    monkeypatch.setenv(IMPORT_VARIABLE, word)
    with pytest.raises(ImportError, match=message):
        import_own_modules()
    assert sys.modules["argparse"] is argparse
