"""Loading configs, and what is said of a misspelt key."""

import os

import detectron2
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.modeling import build_model

from detr_d2 import add_detr_d2_config
from detr_d2.engine import load_config, prepare_device
from detr_d2.facts import model_facts, value_of


def test_yaml_then_overrides(repo):
    cfg = load_config(str(repo / "configs" / "COCO-Detection" / "detr_R_101_DC5.yaml"), ["SOLVER.BASE_LR", "0.5"])
    assert cfg.MODEL.RESNETS.DEPTH == 101
    assert cfg.MODEL.RESNETS.RES5_DILATION == 2
    assert cfg.SOLVER.BASE_LR == 0.5
    assert cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE == "full_model"


def test_misspelt_override():
    with pytest.raises(ValueError, match=r"no config key MODEL\.DETR\.NUM_CLASES.*MODEL\.DETR\.NUM_CLASSES"):
        load_config(opts=["MODEL.DETR.NUM_CLASES", "3"])


def test_key_in_the_wrong_place():
    with pytest.raises(ValueError, match=r"MODEL\.DEPTH.*did you mean MODEL\.RESNETS\.DEPTH"):
        load_config(opts=["MODEL.DEPTH", "50"])


def test_misspelt_key_in_yaml(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL:\n  DETR:\n    NHEAD: 4\n")
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.NHEAD .*bad\.yaml.*MODEL\.DETR\.NHEADS"):
        load_config(str(path))


def test_missing_file():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.yaml"):
        load_config("nowhere.yaml")


def test_odd_number_of_words():
    with pytest.raises(ValueError, match="KEY VALUE"):
        load_config(opts=["SOLVER.BASE_LR"])


def test_wrong_type():
    with pytest.raises(ValueError, match=r"SOLVER\.MAX_ITER"):
        load_config(opts=["SOLVER.MAX_ITER", "many"])


@pytest.mark.skipif(torch.cuda.is_available(), reason="is about machines without a GPU")
def test_falls_back_to_the_cpu_and_shares_its_cores(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    cfg = load_config()
    prepare_device(cfg, processes_per_machine=4)
    assert cfg.MODEL.DEVICE == "cpu"
    assert os.environ.pop("OMP_NUM_THREADS") == "2"


@pytest.mark.parametrize(
    ("config", "dataset", "classes"),
    [
        ("COCO-Detection/detr_R_50_300ep", "", 80),
        ("COCO-Detection/detr_R_50_300ep", "lvis_v1_train", 1203),
        ("COCO-Detection/fcos_R_50_1x", "keypoints_coco_2017_train", 1),
        ("COCO-PanopticSegmentation/panoptic_detr_R_50", "", 133),
        ("COCO-PanopticSegmentation/detr_R_50_boxes", "", 133),
        ("Shapes/deformable_detr_R_18", "", 4),
        ("Shapes/panoptic_detr_R_18", "", 8),
    ],
)
def test_the_number_of_classes_follows_any_dataset(repo, config, dataset, classes):
    opts = ["DATASETS.TRAIN", str((dataset,))] if dataset else []
    cfg = load_config(str(repo / "configs" / f"{config}.yaml"), opts)
    assert value_of(cfg, model_facts(cfg).num_classes) == classes


def test_stock_detectron2_builds_as_many_classes_as_the_dataset_has(repo):
    """Without `load_config`, the number in the cfg stays -1."""
    cfg = get_cfg()
    add_detr_d2_config(cfg)
    cfg.merge_from_file(str(repo / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    assert cfg.MODEL.DETR.NUM_CLASSES == -1
    assert build_model(cfg).class_embed.out_features == 80 + 1
    cfg.DATASETS.TRAIN = ("nowhere",)
    with pytest.raises(ValueError, match=r"MODEL\.DETR\.NUM_CLASSES is -1, .* 'nowhere' is not registered: set"):
        build_model(cfg)


@pytest.mark.parametrize(
    "value",
    [
        '!!python/object/apply:os.system ["touch {mark}"]',
        "!!python/object/apply:eval [\"open('{mark}', 'w')\"]",
        "!!python/object/apply:eval \"open('{mark}', 'w')\"",
        '!!python/object/new:os.system ["touch {mark}"]',
        "!!python/name:os.system",
        "!!python/module:antigravity",
    ],
)
@pytest.mark.parametrize("as_base", [False, True], ids=["file", "base"])
def test_a_config_never_runs_code(tmp_path, value, as_base):
    mark = tmp_path / "mark"
    (tmp_path / "hostile.yaml").write_text(f"SEED: {value.format(mark=mark)}\n")
    (tmp_path / "child.yaml").write_text('_BASE_: "hostile.yaml"\n')
    with pytest.raises(ValueError, match=r"asks for something that could run code.*hostile\.yaml, line 1"):
        load_config(str(tmp_path / ("child.yaml" if as_base else "hostile.yaml")))
    assert not mark.exists()


def test_the_one_expression_of_detectron2s_own_configs():
    config = model_zoo_file("COCO-Detection/retinanet_R_50_FPN_1x.yaml")
    sizes = load_config(config).MODEL.ANCHOR_GENERATOR.SIZES
    expected = get_cfg()
    expected.merge_from_file(config)
    assert sizes == expected.MODEL.ANCHOR_GENERATOR.SIZES
    assert sizes[0] == [32, 32 * 2 ** (1 / 3), 32 * 2 ** (2 / 3)]


def model_zoo_file(name: str) -> str:
    """Its module needs pkg_resources, which current versions of setuptools lack."""
    return os.path.join(os.path.dirname(detectron2.__file__), "model_zoo", "configs", name)


def test_an_error_shows_no_line_of_the_file_that_a_base_names(tmp_path):
    (tmp_path / "secret").write_text("root:$6$salt: *hash:\n\tsecond\n")
    (tmp_path / "config.yaml").write_text('_BASE_: "secret"\n')
    with pytest.raises(ValueError, match=r"config\.yaml is no yaml config") as caught:
        load_config(str(tmp_path / "config.yaml"))
    assert "salt" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_base_that_names_itself(tmp_path):
    (tmp_path / "a.yaml").write_text('_BASE_: "b.yaml"\n')
    (tmp_path / "b.yaml").write_text('_BASE_: "a.yaml"\n')
    with pytest.raises(ValueError, match=r"a\.yaml is no yaml config: its _BASE_ leads back to itself"):
        load_config(str(tmp_path / "a.yaml"))


@pytest.mark.parametrize(
    ("device", "gpus", "says"),
    [
        ("cuda:9", 2, "MODEL.DEVICE is cuda:9, but this machine has 2 GPUs: cuda:0 to cuda:1"),
        ("mps", 0, "MODEL.DEVICE is mps, which this machine does not have"),
        ("gpu", 0, "'gpu' is no device"),
    ],
)
def test_devices_that_are_not_there(device, gpus, says, monkeypatch):
    if device == "mps" and torch.backends.mps.is_available():
        pytest.skip("it is there")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=says):
        prepare_device(load_config("", ["MODEL.DEVICE", device]))
