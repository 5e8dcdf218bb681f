"""Stock Detectron2 with our models and published weights: its checkpointer, its predictor, its way to fine-tune."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import CfgNode
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, recognise, to_official
from detr_d2.checkpoint.layouts.huggingface import to_hub

from .test_deformable import mmdetection_of
from .test_fcos_layouts import original_name

PANOPTIC = [
    *["MODEL.META_ARCHITECTURE", "PanopticDETR", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.DETR.NUM_CLASSES", 133, "MODEL.PANOPTIC_DETR.THING_CLASSES", list(range(80))],
    *["MODEL.DETR.HIDDEN_DIM", 64, "MODEL.DETR.NHEADS", 8],
]
# Case -> model, and what its published weights look like.
CASES: dict[str, tuple[str, Callable[[nn.Module], dict[str, Tensor]]]] = {
    "official DETR": ("detr", lambda model: to_official(model.state_dict())["model"]),
    "transformers' DETR": ("detr", lambda model: to_hub(model.state_dict(), "resnet")),
    "panoptic: official DETR": ("panoptic", lambda model: to_official(model.state_dict())["model"]),
    "panoptic: transformers' DETR": ("panoptic", lambda model: to_hub(model.state_dict(), "resnet")),
    "official Deformable DETR": ("_refine", lambda model: to_official(model.state_dict())["model"]),
    "transformers' Deformable DETR": ("_two_stage", lambda model: to_hub(model.state_dict(), "resnet", refine=True)),
    "mmdetection Deformable DETR": ("_refine", lambda model: mmdetection_of(model)),
    "the original release of FCOS": (
        "fcos",
        lambda model: {f"module.{original_name(key)}": value for key, value in model.state_dict().items()},
    ),
}


@pytest.fixture
def cfg_of(small_detr_cfg, small_deformable_cfg, small_fcos_cfg) -> Callable[..., CfgNode]:
    """``cfg_of("panoptic", *overrides)``."""

    def build(kind: str, *overrides: object) -> CfgNode:
        given = {"detr": small_detr_cfg, "panoptic": small_detr_cfg, "fcos": small_fcos_cfg}
        cfg = given[kind].clone() if kind in given else small_deformable_cfg(kind)
        cfg.defrost()
        cfg.merge_from_list([*(PANOPTIC if kind == "panoptic" else []), *overrides])
        return cfg

    return build


def randomise(model: nn.Module) -> nn.Module:
    """Give every tensor its own values, of which images still make different ones."""
    generator = torch.Generator().manual_seed(0)
    for name, value in {x.data_ptr(): (name, x) for name, x in model.state_dict().items()}.values():
        noise = torch.rand(value.shape, generator=generator)
        value.copy_(noise + 0.5 if name.endswith("running_var") else value + 0.1 * (noise - 0.5))
    return model


@pytest.mark.parametrize("case", CASES)
def test_published_weights_through_detectron2s_own(cfg_of, saved, caplog, case):
    """Its predictor finds what `DetrCheckpointer` finds, class rows included."""
    kind, publish = CASES[case]
    state = publish(randomise(build_model(cfg_of(kind))))
    path = saved({"model": state})
    ours = build_model(cfg_of(kind)).eval()
    checkpointer = DetrCheckpointer(ours)
    checkpointer.load(path)
    assert checkpointer.last_report.layout == case.removeprefix("panoptic: ")
    assert checkpointer.last_report.complete

    caplog.clear()
    predictor = DefaultPredictor(cfg_of(kind, "MODEL.WEIGHTS", path, "INPUT.MIN_SIZE_TEST", 64))
    assert "not found in the checkpoint" not in caplog.text
    assert "incompatible shapes" not in caplog.text
    plain = build_model(cfg_of(kind))
    plain.load_state_dict(state)
    expected = ours.state_dict()
    for model in (predictor.model, plain):
        assert {name for name, value in model.state_dict().items() if not torch.equal(value, expected[name])} == set()

    image = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    found = predictor(image)["instances"]
    pixels = image if predictor.input_format == "BGR" else image[:, :, ::-1]
    inputs = {"image": torch.as_tensor(pixels.astype("float32").transpose(2, 0, 1)), "height": 64, "width": 80}
    with torch.no_grad():
        wanted = ours([inputs])[0]["instances"]
    assert torch.equal(found.scores, wanted.scores)
    assert torch.equal(found.pred_classes, wanted.pred_classes)
    assert torch.equal(found.pred_boxes.tensor, wanted.pred_boxes.tensor)


@pytest.mark.parametrize("kind", ["detr", "_refine", "fcos"])
def test_weights_of_other_classes(cfg_of, saved, kind):
    """Never half of them in silence: an error that names the key, or, where it is asked for, all but the class head."""
    key = "MODEL.FCOS.NUM_CLASSES" if kind == "fcos" else "MODEL.DETR.NUM_CLASSES"
    publish = next(publish for other, publish in CASES.values() if other == kind)
    path = saved({"model": publish(build_model(cfg_of(kind)))})
    with pytest.raises(ValueError, match=f"{key} 80"):
        DefaultPredictor(cfg_of(kind, key, 3, "MODEL.WEIGHTS", path))
    model = DefaultPredictor(cfg_of(kind, key, 3, "MODEL.WEIGHTS", path, "MODEL.REINIT_CLASS_HEAD", True)).model
    source = build_model(cfg_of(kind, key, 3))
    DetrCheckpointer(source, reinit=["class_head"]).load(path)
    names = [name for name in model.state_dict() if "class_embed" not in name and "cls_logits" not in name]
    assert [name for name in names if not torch.equal(model.state_dict()[name], source.state_dict()[name])] == []


@pytest.mark.parametrize("layout", [to_official, lambda state: {"model": state}], ids=["published", "own"])
def test_weights_of_another_number_of_queries(cfg_of, saved, layout):
    source = randomise(build_model(cfg_of("detr")))
    words = ("MODEL.DETR.NUM_OBJECT_QUERIES", 5, "MODEL.WEIGHTS", saved(layout(source.state_dict())))
    if layout is to_official:  # under our own names Detectron2 judges, which warns
        with pytest.raises(ValueError, match=r"Detectron2's own checkpointer leaves out tensors of another shape"):
            DefaultPredictor(cfg_of("detr", *words))
    model = DefaultPredictor(cfg_of("detr", *words, "MODEL.REINIT_QUERIES", True)).model
    assert len(model.query_embed.weight) == 5
    names = [name for name in model.state_dict() if "query_embed" not in name]
    assert [name for name in names if not torch.equal(model.state_dict()[name], source.state_dict()[name])] == []


def test_weights_of_another_model(cfg_of, saved):
    path = saved({"model": to_official(build_model(cfg_of("detr")).state_dict())["model"]})
    with pytest.raises(ValueError, match=r"set MODEL\.META_ARCHITECTURE DETR"):
        DefaultPredictor(cfg_of("_refine", "MODEL.WEIGHTS", path))


def test_a_published_backbone(cfg_of, saved):
    source = randomise(build_model(cfg_of("detr")))
    state = {
        name.removeprefix("backbone.0.body."): value
        for name, value in to_official(source.state_dict())["model"].items()
        if name.startswith("backbone.0.body.")
    }
    assert recognise(state).name == "torchvision ResNet"
    model = build_model(cfg_of("panoptic"))
    DetectionCheckpointer(model).load(saved(state))
    own, expected = model.detr.backbone.state_dict(), source.backbone.state_dict()
    assert [name for name in expected if not torch.equal(own[name], expected[name])] == []
