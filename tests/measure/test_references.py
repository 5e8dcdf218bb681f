"""Which reference a model is measured beside: that of its parent, whatever its name."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY

from detr_d2.engine import load_config
from detr_d2.measure.inputs import Settings
from detr_d2.measure.references import PAIRINGS, Pairing, build_workloads, check_reference, pairing_of
from detr_d2.measure.torchvision_reference import TorchvisionWorkload
from detr_d2.measure.transformers_reference import (
    DeformableTransformersWorkload,
    PanopticTransformersWorkload,
    TransformersWorkload,
)
from detr_d2.measure.workloads import compare_outputs

SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"],
    *["MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "1"],
    *["MODEL.DETR.DEC_LAYERS", "2", "MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "12"],
]
# A config of each family -> its reference.
EXPECTED = {
    "COCO-Detection/detr_R_50_300ep": ("transformers", TransformersWorkload),
    "COCO-PanopticSegmentation/panoptic_detr_R_50": ("transformers", PanopticTransformersWorkload),
    "COCO-Detection/deformable_detr_R_50": ("transformers", DeformableTransformersWorkload),
    "COCO-PanopticSegmentation/panoptic_deformable_detr_R_50": ("none", None),
    "COCO-Detection/fcos_torchvision_R_50": ("torchvision", TorchvisionWorkload),
    "Shapes/mask_rcnn_R_18": ("none", None),
}


@pytest.fixture
def settings_of(repo: Path) -> Callable[..., Settings]:
    """The settings of a config by its path below configs."""
    return lambda name, *opts, **kwargs: Settings(
        str(repo / "configs" / f"{name}.yaml"), ("MODEL.DEVICE", "cpu", *opts), **kwargs
    )


@pytest.fixture
def renamed() -> Iterator[Callable[[CfgNode], str]]:
    """Registers a subclass of a cfg's model under another name while the test runs; gives the name."""
    names = []

    def register(cfg: CfgNode) -> str:
        own = type(f"Somebodys{len(names)}", (META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE),), {})
        META_ARCH_REGISTRY.register(own)
        names.append(own.__name__)
        return own.__name__

    yield register
    for name in names:
        del META_ARCH_REGISTRY._obj_map[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_a_subclass_has_the_reference_of_its_parent(name: str, settings_of, renamed) -> None:
    cfg = settings_of(name).load()
    own = settings_of(name, "MODEL.META_ARCHITECTURE", renamed(cfg)).load()
    pairing = pairing_of(cfg)
    assert (pairing.reference, pairing.workload) == EXPECTED[name]
    assert pairing_of(own) is pairing or pairing == pairing_of(own) == Pairing()
    for reference in ("transformers", "torchvision"):
        if reference == pairing.reference:
            check_reference(own, reference)
        else:
            with pytest.raises(ValueError, match=r"MODEL\.META_ARCHITECTURE is 'Somebodys0'.*--reference none"):
                check_reference(own, reference)


def test_a_subclass_is_measured_beside_it(settings_of, renamed) -> None:
    name, settings = "COCO-Detection/detr_R_50_300ep", {"sizes": ((64, 96),), "reference": "transformers"}
    own = renamed(settings_of(name).load())
    settings = settings_of(name, *SMALL, "MODEL.META_ARCHITECTURE", own, **settings)
    workloads = build_workloads(settings.load(), settings)
    assert type(workloads["ours"].model).__name__ == own
    agreement = compare_outputs(workloads["ours"], workloads["transformers"])
    assert agreement.holds, agreement
    assert agreement.details["classes_seen"] > 5


def test_random_weights_are_prepared_for_every_family_of_ours() -> None:
    for pairing in PAIRINGS.values():
        assert pairing.as_trained or pairing.distinct


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_our_own_file_in_another_program(engine, monkeypatch):
    """Two images of different sizes; a program with other weights does not agree."""
    pytest.importorskip(engine)
    monkeypatch.setattr(torch, "set_num_threads", lambda count: None)
    words = ("MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "8", "MODEL.RESNETS.RES2_OUT_CHANNELS", "8")
    words += ("MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "1", "MODEL.DETR.DEC_LAYERS", "1")
    config = str(Path(__file__).resolve().parents[2] / "configs" / "Shapes" / "detr_R_18.yaml")
    settings = Settings(config, words, sizes=((64, 96), (80, 64)), batch_size=2, reference=engine)
    cfg = settings.load()
    check_reference(cfg, engine)
    ours, other = build_workloads(cfg, settings).values()
    agreement = compare_outputs(ours, other)
    assert agreement.holds
    assert agreement.details["detections"] > 0
    (outputs,) = other.infer()
    assert outputs["boxes"].shape[0] == 2
    with torch.no_grad():
        ours.model.bbox_embed.layers[-1].bias.add_(0.1)
    assert not compare_outputs(ours, other).holds


def test_programs_that_are_not_there_or_cannot_run_say_so(monkeypatch):
    cfg = load_config()
    cfg.MODEL.META_ARCHITECTURE, cfg.MODEL.DEVICE = "DETR", "cuda"
    with pytest.raises(ValueError, match=r"runs on the CPU: set MODEL\.DEVICE cpu"):
        check_reference(cfg, "onnxruntime")
    cfg.MODEL.DEVICE, cfg.SOLVER.AMP.ENABLED = "cpu", True
    with pytest.raises(ValueError, match="no bf16 on CPUs: leave --amp out"):
        check_reference(cfg, "onnxruntime")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match="--reference openvino needs it installed: pip install openvino"):
        check_reference(cfg, "openvino")
