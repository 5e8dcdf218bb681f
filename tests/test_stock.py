"""Detectron2's own trainer and functions with our configs: they run what they can, and refuse the rest in one line."""

import re
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetMapper, MetadataCatalog, build_detection_test_loader, build_detection_train_loader
from detectron2.engine import DefaultTrainer
from detectron2.solver import build_optimizer
from detectron2.solver.build import maybe_add_gradient_clipping
from torch import nn

from detr_d2.engine import load_config
from detr_d2.solver import build_optimizer as build_our_optimizer

TRAINER = r"train with detr_d2\.engine\.Trainer, or override {} in your own trainer to return detr_d2\.{}"
OPTIMIZER = TRAINER.format("build_optimizer", r"solver\.build_optimizer\(cfg, model\)\.$")
LOADER = TRAINER.format("build_train_loader", r"data\.build_train_loader\(cfg\)\.$")
SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "2"],
    *["INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64", "TEST.EVAL_PERIOD", "0"],
]
CONFIGS = Path(__file__).resolve().parents[1] / "configs"
YAMLS = [
    path
    for path in sorted([*CONFIGS.glob("COCO-*/*.yaml"), *CONFIGS.glob("Shapes/*.yaml")])
    if not path.name.startswith("Base-")
]
# What Detectron2 can do of a config for it.
STOCK = [
    *["SOLVER.OPTIMIZER", "SGD", "SOLVER.BASE_LR", "0.0001", "SOLVER.CLIP_GRADIENTS.ENABLED", "False"],
    *["INPUT.DATASET_MAPPER", ""],
]


@pytest.fixture
def shapes_cfg(repo, shapes_root, tmp_path):
    """``shapes_cfg("detr_R_18", *overrides)`` -> a Shapes config with two small steps of training."""

    def build(name: str, *overrides: str) -> CfgNode:
        path = str(repo / "configs" / "Shapes" / f"{name}.yaml")
        return load_config(path, [*SMALL, "OUTPUT_DIR", str(tmp_path / "out"), *overrides])

    return build


@pytest.mark.parametrize(
    ("config", "overrides", "message"),
    [
        ("detr_R_18", [], rf"^SOLVER\.OPTIMIZER is 'ADAMW'.*{OPTIMIZER}"),
        ("faster_rcnn_R_18", [], rf"^SOLVER\.OPTIMIZER is 'ADAMW'.*{OPTIMIZER}"),  # which clips nothing
        ("panoptic_fpn_R_18", STOCK[:2], rf'^SOLVER\.CLIP_GRADIENTS\.CLIP_TYPE is "full_model".*{OPTIMIZER}'),
        ("detr_R_18", STOCK[:6], rf"^INPUT\.DATASET_MAPPER is 'DetrDatasetMapper'.*{LOADER}"),
        ("panoptic_detr_R_18", STOCK[:6], rf"^INPUT\.DATASET_MAPPER is 'PanopticDatasetMapper'.*{LOADER}"),
    ],
)
def test_what_the_default_trainer_cannot_do_it_refuses(shapes_cfg, config, overrides, message):
    with pytest.raises(ValueError, match=message):
        DefaultTrainer(shapes_cfg(config, *overrides))


@pytest.mark.parametrize("config", ["detr_R_18", "deformable_detr_R_18_two_stage", "fcos_R_18", "faster_rcnn_R_18"])
def test_what_the_default_trainer_can_do_it_does(shapes_cfg, tmp_path, config):
    trainer = DefaultTrainer(shapes_cfg(config, *STOCK))
    before = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    trainer.resume_or_load(resume=False)
    trainer.train()
    assert isinstance(trainer._trainer.optimizer, torch.optim.SGD)
    assert any(not torch.equal(p, before[name]) for name, p in trainer.model.named_parameters())
    assert (tmp_path / "out" / "model_final.pth").is_file()


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_config_is_optimized_as_it_says_or_refused(path):
    cfg = load_config(str(path))
    model = nn.ModuleDict({"backbone": nn.Linear(2, 2), "norm": nn.LayerNorm(2)})
    if path.parent.name.startswith("COCO-") and re.match("fcos|faster|retinanet|mask_rcnn|panoptic_fpn", path.stem):
        stock, ours = build_optimizer(cfg, model), build_our_optimizer(cfg, model)
        assert type(stock) is type(ours) is torch.optim.SGD
        assert stock.state_dict() == ours.state_dict()
        assert cfg.INPUT.DATASET_MAPPER == ""
    else:
        with pytest.raises(ValueError, match=OPTIMIZER):
            build_optimizer(cfg, model)


def test_a_panoptic_model_without_masks_says_where_they_come_from(shapes_cfg):
    trainer = DefaultTrainer(shapes_cfg("panoptic_detr_R_18", *STOCK, "DATASETS.TRAIN", "('shapes_train',)"))
    message = r"without masks.*INPUT\.DATASET_MAPPER.*detr_d2\.engine\.Trainer.*detr_d2\.data\.build_train_loader"
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_a_mapper_that_is_given_is_not_refused(shapes_cfg):
    cfg = shapes_cfg("detr_R_18")
    batch = next(iter(build_detection_train_loader(cfg, mapper=DatasetMapper(cfg, is_train=True, augmentations=[]))))
    assert len(batch) == 2
    assert batch[0]["instances"].has("gt_boxes")


def test_evaluation_needs_no_mapper_of_ours(shapes_cfg):
    loader = build_detection_test_loader(shapes_cfg("panoptic_detr_R_18"), "shapes_val")
    assert len(loader) == len(list(loader)) == 8


def test_another_optimizer_may_take_detectron2s_clipping(shapes_cfg):
    cfg = shapes_cfg("detr_R_18", "SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "value", "SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.5")
    layer = nn.Linear(2, 2, bias=False)
    optimizer = maybe_add_gradient_clipping(cfg, torch.optim.AdamW(layer.parameters()))
    layer.weight.grad = torch.full((2, 2), 3.0)
    optimizer.step()
    assert layer.weight.grad.max() == 0.5


def test_a_cfg_without_our_keys_is_none_of_our_business(shapes_root):
    cfg = get_cfg()
    cfg.DATASETS.TRAIN, cfg.DATALOADER.NUM_WORKERS, cfg.SOLVER.IMS_PER_BATCH = ("shapes_train",), 0, 2
    assert MetadataCatalog.get("shapes_train").thing_classes
    assert len(next(iter(build_detection_train_loader(cfg)))) == 2
    assert isinstance(build_optimizer(cfg, nn.Linear(2, 2)), torch.optim.SGD)
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    assert type(build_optimizer(cfg, nn.Linear(2, 2))).__name__ == "SGDWithGradientClip"
