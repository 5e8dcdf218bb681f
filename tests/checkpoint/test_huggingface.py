"""Hugging Face's layout both ways: what is written opens with ``transformers`` and computes the same, and the other
way round; what cannot be said in it, and broken folders.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model
from safetensors.torch import load_file
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer, UnreadableCheckpoint, read_checkpoint, recognise
from detr_d2.checkpoint.class_names import class_names_of
from detr_d2.checkpoint.huggingface import check_expressible, write_huggingface
from detr_d2.checkpoint.huggingface_config import label_config, processor_config
from detr_d2.checkpoint.layouts.huggingface import (
    HUGGINGFACE_DEFORMABLE,
    HUGGINGFACE_DETR,
    to_hub,
)
from detr_d2.measure.transformers_model import TorchvisionBackbone, reference_config

transformers = pytest.importorskip("transformers", reason="the other side of the layout")

TOLERANCE = {"rtol": 1e-3, "atol": 5e-5}
WIDE = [
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS",
    256,
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    64,
]
DC5 = [*WIDE, "MODEL.RESNETS.RES5_DILATION", 2]
PANOPTIC = [
    *["MODEL.META_ARCHITECTURE", "PanopticDETR", "MODEL.RESNETS.OUT_FEATURES", ["res2", "res3", "res4", "res5"]],
    *["MODEL.PANOPTIC_DETR.THING_CLASSES", [0, 1], "MODEL.DETR.HIDDEN_DIM", 64, "MODEL.DETR.NHEADS", 8],
]
DETRS = {
    "small": [],
    "R18": ["MODEL.RESNETS.DEPTH", 18],
    "BN": ["MODEL.RESNETS.NORM", "BN", "MODEL.BACKBONE.FREEZE_AT", 0],
    "res4": ["MODEL.RESNETS.OUT_FEATURES", ["res4"], "MODEL.DETR.IN_FEATURE", "res4"],
    "learned": ["MODEL.DETR.POSITION_EMBEDDING", "learned"],
    "panoptic": PANOPTIC,
}
# Of matrices that decide where attention looks, and of boxes, which more would saturate.
GAINS = {"in_proj": 2.0, "q_proj": 2.0, "k_proj": 2.0, "layers.2.weight": 0.3, "backbone": 1.4}
DEFORMABLE = ["_single_scale", "", "_refine", "_two_stage"]
CASES = [*DETRS, *(f"deformable{variant}" for variant in DEFORMABLE)]


@pytest.fixture
def cfg_of(small_detr_cfg, small_deformable_cfg) -> Callable[..., CfgNode]:
    """``cfg_of(case, *overrides)``."""

    def build(case: str, *overrides: object) -> CfgNode:
        if case.startswith("deformable"):
            return small_deformable_cfg(case.removeprefix("deformable"), *overrides)
        cfg = small_detr_cfg.clone()
        cfg.defrost()
        cfg.merge_from_list([*DETRS[case], *overrides])
        return cfg

    return build


def model_of(cfg: CfgNode, seed: int = 0) -> nn.Module:
    """Ours, random."""
    return randomise(build_model(cfg).eval(), seed)


@torch.no_grad()
def randomise(model: nn.Module, seed: int) -> nn.Module:
    """Give every tensor its own values, such that queries differ and that losing one tensor shows in the outputs."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in {x.data_ptr(): (name, x) for name, x in model.state_dict().items()}.values():
        normal = torch.randn(value.shape, generator=generator)
        if not value.is_floating_point():
            continue
        if value.dim() > 1:
            is_table = ("query" in name and "embed" in name) or "level_embed" in name or "_embed.weight" in name
            gain = next((gain for part, gain in GAINS.items() if part in name), 1.0)
            value.copy_(
                normal if is_table and name != "class_embed.weight" else normal * gain / normal[0].numel() ** 0.5
            )
        elif name.endswith("weight") or "running_var" in name:  # the last norm of a residual block is small
            last = any(part in name for part in ("conv3.norm.weight", ".layer.2.normalization.weight"))
            value.copy_((1 + 0.3 * normal).clamp(0.5, 1.5) * (0.3 if last else 1.0))
        else:
            value.copy_(0.1 * normal)
    return model


def ours(model: nn.Module, image: Tensor) -> dict[str, Tensor]:
    images = model.preprocess([{"image": image}])
    with torch.no_grad():
        detection = model.detect(images)
        result = {"logits": detection.predictions.pred_logits, "pred_boxes": detection.predictions.pred_boxes}
        if hasattr(model, "mask_head"):
            queries = torch.arange(result["logits"].shape[1])
            masks = model.predict_masks(model.mask_inputs(detection), torch.zeros_like(queries), queries)
            result["pred_masks"] = masks[None]
    return result


def theirs(model: nn.Module, pixel_values: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        outputs = model.eval()(pixel_values=pixel_values)
    return {key: outputs[key] for key in ("logits", "pred_boxes", "pred_masks") if key in outputs}


def open_folder(folder: Path, **options: object) -> nn.Module:
    """By what a user of ``transformers`` calls; no tensor is missing or left over."""
    panoptic = "DetrForSegmentation" in json.loads((folder / "config.json").read_text())["architectures"]
    auto = transformers.AutoModelForImageSegmentation if panoptic else transformers.AutoModelForObjectDetection
    model, report = auto.from_pretrained(folder, output_loading_info=True, **options)
    assert {name: found for name, found in report.items() if found} == {}
    return model


def assert_same_outputs(model: nn.Module, reference: nn.Module) -> None:
    image = torch.randint(0, 256, (3, 96, 128), generator=torch.Generator().manual_seed(3))
    own = ours(model, image)
    assert own["logits"].std(1).mean() > 0.02, "the queries do not differ"
    box_model = getattr(model, "detr", model)
    pixels = ((image - box_model.pixel_mean) / box_model.pixel_std)[None]
    other = theirs(reference, pixels)
    assert own.keys() == other.keys()
    for key, value in own.items():
        scale = max(1.0, value.abs().max().item())
        torch.testing.assert_close(value / scale, other[key] / scale, **TOLERANCE, msg=lambda m, key=key: f"{key}: {m}")


@pytest.mark.parametrize("case", CASES)
def test_ours_opens_there(cfg_of, tmp_path, case):
    cfg = cfg_of(case, "MODEL.DETR.NUM_CLASSES", 7)
    model = model_of(cfg)
    names = [f"thing {i}" for i in range(7)]
    folder = write_huggingface(cfg, model.state_dict(), tmp_path / "model", class_names=names)
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "preprocessor_config.json",
    ]
    reference = open_folder(folder)
    assert reference.config.id2label == dict(enumerate(names))
    assert_same_outputs(model, reference)


@pytest.mark.parametrize("case", CASES)
def test_what_is_written_opens_here_again(cfg_of, tmp_path, case):
    cfg = cfg_of(case)
    model, other = model_of(cfg), model_of(cfg, seed=5)
    write_huggingface(cfg, model.state_dict(), tmp_path / "model")
    checkpointer = DetrCheckpointer(other)
    checkpointer.load(str(tmp_path / "model"))
    missing = [name for name in checkpointer.last_report.missing if not name.endswith("num_batches_tracked")]
    assert missing == []
    expected = {key: value for key, value in model.state_dict().items() if not key.endswith("num_batches_tracked")}
    assert [key for key, value in expected.items() if not torch.equal(value, other.state_dict()[key])] == []


def hugging_model(cfg: CfgNode, **changes: object) -> nn.Module:
    """``transformers``' own model, random."""
    config = reference_config(cfg)
    for key, value in changes.items():
        setattr(config, key, value)
    panoptic = cfg.MODEL.META_ARCHITECTURE == "PanopticDETR"
    auto = transformers.AutoModelForImageSegmentation if panoptic else transformers.AutoModelForObjectDetection
    model = randomise(auto.from_config(config), 1)
    if getattr(model.config, "with_box_refine", False):  # as its authors' models: the decoder refines with the heads
        model.model.decoder.bbox_embed = model.bbox_embed
    if getattr(model.config, "two_stage", False):
        model.model.decoder.class_embed = model.class_embed
    return model


@pytest.mark.parametrize("case", [case for case in CASES if case != "BN"])
@pytest.mark.parametrize("file", ["folder", "model.safetensors", "pytorch_model.bin"])
def test_theirs_opens_here(cfg_of, tmp_path, case, file):
    """Its files have the names of version 4, the state dict (as a .bin) those of version 5."""
    cfg = cfg_of(case)
    reference = hugging_model(cfg)
    if file == "pytorch_model.bin":
        torch.save(reference.state_dict(), tmp_path / file)
    else:
        reference.save_pretrained(tmp_path)
    model = build_model(cfg).eval()
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path if file == "folder" else tmp_path / file))
    assert checkpointer.last_report.complete, str(checkpointer.last_report)
    assert_same_outputs(model, reference)


@pytest.mark.parametrize("case", ["deformable_refine", "deformable_two_stage"])
def test_heads_as_version_5_ties_them(cfg_of, tmp_path, case):
    """Unless told otherwise: class heads of refining layers are one, and files hold what is tied once."""
    cfg = cfg_of(case)
    reference = hugging_model(cfg, tie_word_embeddings=True)
    assert (reference.class_embed[1].weight is reference.class_embed[0].weight) == (case == "deformable_refine")
    reference.save_pretrained(tmp_path)
    names = load_file(tmp_path / "model.safetensors").keys()
    assert sum("class_embed" in name for name in names) == (2 if case == "deformable_refine" else 2 * 4)
    model = build_model(cfg).eval()
    DetrCheckpointer(model).load(str(tmp_path))
    assert_same_outputs(model, reference)
    plain = build_model(cfg_of("deformable"))
    with pytest.raises(ValueError, match=r"BOX_REFINE True|QUERY_SELECTION"):
        DetrCheckpointer(plain).load(str(tmp_path))


@pytest.mark.parametrize(
    ("case", "layout", "rows"),
    [
        ("small", HUGGINGFACE_DETR, 92),
        ("panoptic", HUGGINGFACE_DETR, 251),
        ("deformable", HUGGINGFACE_DEFORMABLE, 91),
    ],
)
def test_published_weights(cfg_of, tmp_path, case, layout, rows):
    """Rows by COCO's category ids, timm's backbone, names of version 4."""
    contiguous = 133 if case == "panoptic" else 80
    cfg = cfg_of(case, "MODEL.DETR.NUM_CLASSES", contiguous)
    published = cfg_of(case, "MODEL.DETR.NUM_CLASSES", rows - (case != "deformable"))
    state = to_hub(model_of(published).state_dict(), "timm")
    prefix = "detr." if case == "panoptic" else ""
    assert f"{prefix}model.backbone.conv_encoder.model.layer1.0.downsample.0.weight" in state
    assert f"{prefix}model.backbone.conv_encoder.model.bn1.running_var" in state
    assert f"{prefix}model.decoder.layers.0.self_attn.out_proj.weight" in state
    assert f"{prefix}model.encoder.layers.0.fc1.weight" in state
    if case == "panoptic":
        assert {"mask_head.lay1.weight", "bbox_attention.k_linear.bias"} <= state.keys()
    if case == "deformable":
        assert {key.split(".")[1] for key in state if key.startswith("class_embed.")} == {"0"}
    assert recognise(state) is layout
    head = next(value for key, value in state.items() if key.endswith(("classifier.bias", "class_embed.0.bias")))
    head.copy_(torch.arange(rows))
    torch.save(state, tmp_path / "pytorch_model.bin")
    model = build_model(cfg)
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "pytorch_model.bin"))
    assert checkpointer.last_report.complete
    class_embed = getattr(model, "detr", model).class_embed
    bias = (class_embed[0] if case == "deformable" else class_embed).bias
    assert bias[:12].tolist() == [*range(1, 12), 13]  # there is no category 12
    assert len(bias) == (80 if case == "deformable" else contiguous + 1)


@pytest.mark.parametrize("case", ["small", "deformable_single_scale"])
def test_dc5(cfg_of, tmp_path, case):
    """``transformers`` takes it from timm, which names it as torchvision does."""
    cfg = cfg_of(case, *DC5)
    model = model_of(cfg)
    folder = write_huggingface(cfg, model.state_dict(), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    assert config["dilation"]
    assert config["backbone_config"]["output_stride"] == 16
    assert config["backbone_config"]["backbone"] == "resnet50"
    state = load_file(folder / "model.safetensors")
    prefix = "model.backbone.conv_encoder.model."
    of_backbone = {key.removeprefix(prefix) for key in state if key.startswith(prefix)}
    assert of_backbone == TorchvisionBackbone(50, ["layer4"]).state_dict().keys()
    pytest.importorskip("timm", reason="the backbone that transformers takes for DC5 is timm's")
    assert_same_outputs(model, open_folder(folder))


def test_image_processor(cfg_of, tmp_path):
    """Its pixels are ours, for images that need no resizing."""
    cfg = cfg_of("small", "INPUT.MIN_SIZE_TEST", 96, "INPUT.MAX_SIZE_TEST", 200)
    model = model_of(cfg)
    write_huggingface(cfg, model.state_dict(), tmp_path / "model")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "model")
    image = torch.randint(0, 256, (3, 96, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels = processor(image.permute(1, 2, 0).numpy(), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixels, model.preprocess([{"image": image}]).tensor, rtol=1e-4, atol=1e-4)
    assert processor.size == {"shortest_edge": 96, "longest_edge": 200}


@pytest.mark.parametrize(
    ("case", "opts", "key"),
    [
        ("small", ["MODEL.META_ARCHITECTURE", "FCOS"], "MODEL.META_ARCHITECTURE"),
        ("small", ["MODEL.DETR.PRE_NORM", True], "MODEL.DETR.PRE_NORM"),
        ("small", ["MODEL.DETR.POSITION_TEMPERATURE", 20.0], "MODEL.DETR.POSITION_TEMPERATURE"),
        ("small", ["MODEL.RESNETS.NORM", "GN"], "MODEL.RESNETS.NORM"),
        ("small", ["MODEL.RESNETS.RES5_DILATION", 2], "MODEL.RESNETS.RES5_DILATION"),
        ("small", ["INPUT.FORMAT", "BGR"], "INPUT.FORMAT"),
        ("panoptic", ["MODEL.PANOPTIC_DETR.MASK_FEATURES", ["res3", "res2"]], "MODEL.PANOPTIC_DETR.MASK_FEATURES"),
        ("deformable", ["MODEL.META_ARCHITECTURE", "PanopticDeformableDETR"], "MODEL.META_ARCHITECTURE"),
        ("deformable", ["MODEL.BACKBONE.NAME", "build_resnet_backbone"], "MODEL.BACKBONE.NAME"),
    ],
)
def test_what_config_json_cannot_say_is_refused(cfg_of, tmp_path, case, opts, key):
    with pytest.raises(ValueError, match=re.escape(key)):
        write_huggingface(cfg_of(case, *opts), {}, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_names_of_classes(cfg_of, tmp_path):
    assert class_names_of({"thing_classes": ["a"], "stuff_classes": ["a", "b"]}, 2) == ["a", "b"]
    assert class_names_of({"thing_classes": ["a", "b"]}, 2) == ["a", "b"]
    assert class_names_of({"thing_classes": ["a"]}, 2) is None
    assert label_config(["a", "b", "a"])["label2id"] == {"a (0)": 0, "b": 1, "a (2)": 2}
    with pytest.raises(ValueError, match=r"NUM_CLASSES is 80, but there are 1 names"):
        write_huggingface(cfg_of("small"), {}, tmp_path / "model", class_names=["a"])
    assert processor_config(cfg_of("panoptic"))["format"] == "coco_panoptic"


@pytest.fixture
def folder(cfg_of, tmp_path) -> Path:
    cfg = cfg_of("small")
    return write_huggingface(cfg, model_of(cfg).state_dict(), tmp_path / "model")


def test_broken_folders(cfg_of, folder, snapshot, assert_untouched):
    model = model_of(cfg_of("small"), seed=5)
    before = snapshot(model)

    def refused(message: str, error: type[Exception] = ValueError, path: Path = folder) -> None:
        with pytest.raises(error, match=message):
            DetrCheckpointer(model).load(str(path))
        assert_untouched(model, before)

    weights, config = folder / "model.safetensors", folder / "config.json"
    content, text = weights.read_bytes(), config.read_text()
    weights.write_bytes(content[: len(content) // 2])
    refused("model.safetensors is not a complete checkpoint; it is a truncated or damaged safetensors file")
    weights.write_bytes(b"version https://git-lfs.github.com/spec/v1")
    refused("a Git LFS pointer", UnreadableCheckpoint)
    weights.write_bytes(b"")
    refused("an empty file", UnreadableCheckpoint)
    weights.unlink()
    refused(r"holds a config.json but no weights: expected model.safetensors", FileNotFoundError)
    config.write_text(text.replace('"model_type": "detr"', '"model_type": "yolos"'))
    refused(r"MODEL\.WEIGHTS: .*config.json is of a 'yolos' model; .* detr, deformable_detr, mask2former can be read")
    config.write_text("{")
    refused("is not the config of a transformers model")
    config.unlink()
    refused(r"is a folder without config.json", FileNotFoundError)


def test_another_model(cfg_of, folder):
    with pytest.raises(ValueError, match=r"transformers' DETR layout.*\n.*set MODEL\.META_ARCHITECTURE DETR"):
        DetrCheckpointer(build_model(cfg_of("deformable"))).load(str(folder))
    with pytest.raises(ValueError, match=r"set MODEL\.DETR\.DEC_LAYERS 3"):
        DetrCheckpointer(build_model(cfg_of("small", "MODEL.DETR.DEC_LAYERS", 2))).load(str(folder))


def test_a_projection_is_missing(folder):
    state = load_file(folder / "model.safetensors")
    del state["model.encoder.layers.0.self_attn.k_proj.weight"]
    with pytest.raises(ValueError, match=r"lacks the k_proj of transformer\.encoder\.layers\.0\.self_attn"):
        HUGGINGFACE_DETR.to_ours(state)


def test_decoder_with_heads_of_another_value(cfg_of):
    state = to_hub(model_of(cfg_of("deformable_refine")).state_dict(), "resnet", refine=True)
    state["model.decoder.bbox_embed.1.layers.0.weight"] += 1
    with pytest.raises(ValueError, match=r"bbox_embed\.1 and the decoder's own hold different values"):
        HUGGINGFACE_DEFORMABLE.to_ours(state)


def test_an_existing_folder(cfg_of, folder):
    cfg = cfg_of("small")
    with pytest.raises(FileExistsError, match="--overwrite"):
        write_huggingface(cfg, model_of(cfg).state_dict(), folder)
    (folder / "README.md").write_text("mine")
    other = model_of(cfg, seed=3)
    write_huggingface(cfg, other.state_dict(), folder, overwrite=True)
    state = read_checkpoint(folder)["model"]
    assert torch.equal(state["class_labels_classifier.weight"], other.class_embed.weight)
    assert (folder / "README.md").read_text() == "mine"
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_a_failed_write_leaves_nothing(cfg_of, tmp_path, monkeypatch):
    cfg = cfg_of("small")
    state = model_of(cfg).state_dict()
    monkeypatch.setattr("safetensors.torch.save_file", lambda *a, **k: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_huggingface(cfg, state, tmp_path / "model")
    assert list(tmp_path.iterdir()) == []
    assert shutil.disk_usage(tmp_path).free > 0


def test_a_model_of_another_name_has_the_counterpart_of_its_base(cfg_of, tmp_path):
    class Renamed(META_ARCH_REGISTRY.get("DeformableDETR")):
        pass

    META_ARCH_REGISTRY.register(Renamed)
    try:
        cfg = cfg_of("deformable", "MODEL.META_ARCHITECTURE", "Renamed")
        write_huggingface(cfg, build_model(cfg).state_dict(), tmp_path / "hf")
    finally:
        del META_ARCH_REGISTRY._obj_map["Renamed"]
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["architectures"] == [
        "DeformableDetrForObjectDetection"
    ]


def test_a_model_without_counterpart(cfg_of):
    cfg = cfg_of("panoptic", "MODEL.META_ARCHITECTURE", "FCOS")
    with pytest.raises(ValueError, match="FCOS', which transformers has no model for: it has DETR, panoptic DETR, Def"):
        check_expressible(cfg)
