"""Files of every family, against the model that they were made of."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from detectron2.data.detection_utils import read_image
from PIL import Image
from torch.nn import functional as F

from detr_d2.engine import Predictor, load_trained_model
from detr_d2.export import FORMATS, ExportSettings, Graph, export_model, graph_of
from detr_d2.export.capture import MIN_SIDE, Shape
from detr_d2.export.check import SAME_OBJECT, Difference, compare, read_images

from .tiny import tiny_cfg, tiny_checkpoint

# Of scores, and of boxes in parts of the image: what onnxruntime's arithmetic and torch's differ by.
TOLERANCE = 4e-5
BOXES = ("boxes", "scores", "classes")
# Of this machine, which files do not name.
HERE = str(Path(__file__).resolve().parents[2]).encode()
FREE = ExportSettings("onnx", size=(64, 96), dynamic_size=True, tolerance=TOLERANCE)
FIXED = ExportSettings("onnx", size=(64, 96), tolerance=TOLERANCE)


def write(folder: Path, family: str, settings: ExportSettings, *opts: str, **extra: object) -> tuple[Path, Difference]:
    """A file of a tiny model, which `export_model` compares with it on images alone and in mixed pairs."""
    weights = tiny_checkpoint(tiny_cfg(family, *opts), folder / "model.pth", **extra)
    path = folder / f"{family.replace(' ', '_')}{FORMATS[settings.format].suffix}"
    cfg = tiny_cfg(family, *opts, "MODEL.WEIGHTS", weights)
    return path, export_model(cfg, path, settings)


def run(path: Path, count: int, height: int, width: int) -> dict[str, torch.Tensor]:
    names = tuple(output.name for output in onnx.load(path).graph.output) if path.suffix == ".onnx" else BOXES
    program = FORMATS["onnx" if path.suffix == ".onnx" else "torch_export"].load(path, names)
    sizes = torch.tensor([[height, width]]).repeat(count, 1)
    return program(torch.full((count, 3, height, width), 99.0), sizes)


def metadata(path: Path) -> dict[str, object]:
    import onnxruntime

    found = onnxruntime.InferenceSession(str(path)).get_modelmeta().custom_metadata_map
    return {name: json.loads(value) for name, value in found.items()}


def assert_keeps_detections(path: Path, folder: Path) -> None:
    """In int8 and in fp16: of what is found in images of Shapes, 99 % of the detections are the same objects, with 95 %
    of the pixels of each mask.
    """
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.quantization.shape_inference import quant_pre_process
    from onnxruntime.transformers.float16 import convert_float_to_float16

    int8, fp16 = path.with_name("int8.onnx"), path.with_name("fp16.onnx")
    quant_pre_process(str(path), str(int8), skip_symbolic_shape=True)
    quantize_dynamic(int8, int8, weight_type=QuantType.QUInt8)
    onnx.save(convert_float_to_float16(onnx.load(path), keep_io_types=True), fp16)
    names = (*Graph.output_names, "masks")[: len(onnx.load(path).graph.output)]
    programs = [FORMATS["onnx"].load(file, names) for file in (path, int8, fp16)]
    kept, total = [0, 0], 0
    for name in sorted(folder.iterdir()):
        image = torch.from_numpy(read_image(str(name), "RGB").copy()).permute(2, 0, 1)[None].float()
        whole, *others = (program(image, torch.tensor([image.shape[-2:]])) for program in programs)
        total += len(whole["scores"][0])
        for i, found in enumerate(others):
            moved = (found["boxes"] - whole["boxes"]).abs().amax(-1) / max(image.shape)
            same = torch.maximum(moved, (found["scores"] - whole["scores"]).abs()) < SAME_OBJECT
            same &= found["classes"] == whole["classes"]
            if "masks" in names:
                same &= ((found["masks"] > 0) == (whole["masks"] > 0)).float().mean((2, 3)) > 0.95
            kept[i] += int(same.sum())
    assert total >= 40
    assert min(kept) >= 0.99 * total, (kept, total)
    assert int8.stat().st_size < path.stat().st_size


def test_detr_takes_any_batch_and_size(tmp_path: Path, shapes_root: Path):
    described = {"thing_classes": ["a", "b", "c", "d"]}
    path, found = write(tmp_path, "detr", FREE, dataset_metadata=described)
    assert found.detections > 0
    for count, height, width in ((1, 64, 64), (2, 65, 97), (3, 100, 51)):
        outputs = run(path, count, height, width)
        assert outputs["boxes"].shape == (count, 8, 4)
        assert outputs["boxes"][..., 0::2].max() <= width
        assert outputs["boxes"][..., 1::2].max() <= height
    facts = metadata(path)
    assert facts["class_names"] == described["thing_classes"]
    assert (facts["channel_order"], facts["height"], facts["width"], facts["batch_size"]) == ("RGB", 0, 0, 0)
    assert (facts["min_size"], facts["max_size"], facts["size_multiple"]) == (64, 96, 1)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["detr.onnx", "model.pth"]  # no weights beside it
    assert HERE not in path.read_bytes()
    assert_keeps_detections(path, shapes_root / "shapes" / "val")


@pytest.mark.parametrize("family", ["deformable", "deformable two-stage"])
def test_deformable_detr_takes_any_batch_of_one_size(tmp_path: Path, family: str):
    path, _ = write(tmp_path, family, FIXED)
    assert [len(run(path, count, 64, 96)["scores"]) for count in (1, 3)] == [1, 3]
    assert (metadata(path)["height"], metadata(path)["width"]) == (64, 96)


def test_a_model_of_squares_is_of_its_square(tmp_path: Path, shapes_root: Path, load_tool):
    """By default and in its description; the tool's boxes are those of the predictor in the image's own frame."""
    words = ["INPUT.AUGMENTATION", "build_square_augmentation", "INPUT.SQUARE_SIZE", "64"]
    path, _ = write(tmp_path, "detr", replace(FIXED, size=None), *words)
    facts = metadata(path)
    assert (facts["height"], facts["width"], facts["squash"]) == (64, 64, [64, 64])
    image = Image.open(min((shapes_root / "shapes" / "val").iterdir())).convert("RGB").resize((50, 90))
    image.save(tmp_path / "image.png")
    cfg = tiny_cfg("detr", *words, "MODEL.WEIGHTS", str(tmp_path / "model.pth"))
    (own,) = read_images([tmp_path / "image.png"], cfg, Shape(1, 64, 64, False, 1), (64, 64))
    assert own.shape == (3, 64, 64)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    expected = Predictor(str(tmp_path / "model.pth"))(image)["instances"]
    found = load_tool("run_onnx").Detector(str(path))(image)
    order = expected.scores.argsort(descending=True, stable=True)
    np.testing.assert_allclose(found.scores, expected.scores[order], atol=TOLERANCE)
    np.testing.assert_allclose(found.boxes, expected.pred_boxes.tensor[order], atol=100 * TOLERANCE)


def test_panoptic_detr_gives_masks(tmp_path: Path, shapes_root: Path):
    path, _ = write(tmp_path, "panoptic", replace(FREE, max_detections=5))
    facts = metadata(path)
    assert facts["mask_stride"] == 4
    assert facts["thing_classes"] == [0, 1, 2]
    assert len(facts["class_names"]) == 8
    assert_keeps_detections(path, shapes_root / "shapes" / "val")


def test_panoptic_deformable_detr_of_one_image(tmp_path: Path, shapes_root: Path):
    path, _ = write(tmp_path, "panoptic deformable", replace(FIXED, batch=1))
    assert metadata(path)["batch_size"] == 1


@pytest.fixture(scope="module")
def mask2former(tmp_path_factory: pytest.TempPathFactory, shapes_root: Path) -> tuple[Path, Difference]:
    return write(tmp_path_factory.mktemp("mask2former"), "mask2former", FIXED)


def test_mask2former_gives_masks_and_what_maps_are_made_of(mask2former: tuple[Path, Difference], load_tool):
    path, found = mask2former
    assert found.detections > 10
    facts = metadata(path)
    assert (facts["mask_stride"], facts["frame_multiple"], facts["overlap_threshold"]) == (4, 16, 0.3)
    assert facts["thing_classes"] == [0, 1, 2]
    outputs = run(path, 3, 64, 96)
    assert outputs["masks"].shape == (3, 8, 16, 24)
    torch.testing.assert_close(outputs["probabilities"].sum(-1), torch.ones(3, 8))

    found = load_tool("run_onnx").Detector(str(path))(Image.new("RGB", (90, 60), (99, 99, 99)))  # fills the height
    outputs = run(path, 1, 64, 96)
    full = F.interpolate(outputs["masks"], (64, 96), mode="bilinear")[0]
    full = F.interpolate(full[None], (60, 90), mode="bilinear")[0] > 0
    order = [i for i in outputs["scores"][0].argsort(descending=True).tolist() if full[i].any()]
    assert found.classes.tolist() == outputs["classes"][0, order].tolist()
    assert (found.masks == full[order].numpy()).mean() > 0.99  # Pillow takes more pixels into account
    left, top, right, bottom = found.boxes[0].astype(int)
    assert found.masks[0, top:bottom, left:right].sum() == found.masks[0].sum()
    assert found.masks[0, top].any()
    assert found.masks[0, :, right - 1].any()


def test_mask2former_on_real_images(mask2former: tuple[Path, Difference], coco_root: Path):
    """Instances, panoptic and semantic maps of the file's outputs against the model's own."""
    path, _ = mask2former
    cfg = tiny_cfg("mask2former", "MODEL.WEIGHTS", str(path.with_name("model.pth")))
    model = load_trained_model(cfg)
    graph, shape = graph_of(type(model))(model), Shape(None, 64, 96, False, 16)
    images = read_images(sorted((coco_root / "coco" / "val2017").glob("*.jpg"))[:4], cfg, shape)
    program = FORMATS["onnx"].load(path, graph.output_names)
    found = compare(graph, program, images, shape)
    assert found.detections > 40
    found.check(TOLERANCE)
    with torch.no_grad():
        segments = [len(result["panoptic_seg"][1]) for result in graph.model([{"image": x} for x in images])]
    assert sum(segments) > 4

    def mirrored(batch: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        outputs = program(batch, sizes)
        return outputs | {"masks": outputs["masks"].flip(-1)}

    assert compare(graph, mirrored, images[:2], shape).map > 0.1


def test_fcos_takes_multiples_of_its_stride(tmp_path: Path):
    path, _ = write(tmp_path, "fcos", FREE)
    facts = metadata(path)
    assert facts["size_multiple"] > 1
    assert 0 < facts["nms_threshold"] < 1
    assert run(path, 1, 128, 64)["scores"].shape == (1, 4 * 50)


def test_a_program_of_torchs(tmp_path: Path):
    path, _ = write(tmp_path, "detr", replace(FREE, format="torch_export"))
    assert run(path, 3, 68, 100)["boxes"].shape == (3, 8, 4)
    extra = {"description.json": ""}
    torch.export.load(str(path), extra_files=extra)
    assert json.loads(extra["description.json"])["size_multiple"] == "4"
    assert HERE not in path.read_bytes()


@pytest.mark.parametrize(
    ("family", "settings", "says"),
    [
        ("deformable", replace(FREE), "exported for one size"),
        ("detr", replace(FIXED, size=(0, 64)), "must be positive"),
        ("detr", replace(FIXED, size=(MIN_SIDE - 1, 64)), "must be positive"),
        ("detr", replace(FIXED, batch=0), "a batch holds 1"),
        ("detr", replace(FIXED, max_detections=3), "models with masks"),
        ("fcos", replace(FIXED, size=(65, 64)), "must be multiples of"),
    ],
)
def test_settings_that_do_not_fit(tmp_path: Path, family: str, settings: ExportSettings, says: str):
    with pytest.raises(ValueError, match=says):
        write(tmp_path, family, settings)
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_a_file_that_differs_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """One of zeros; that `compare` finds what is wrong is for test_graphs."""

    def zeros(images: torch.Tensor, sizes: torch.Tensor) -> dict[str, torch.Tensor]:
        count = len(images), 8
        return {
            "boxes": torch.zeros(*count, 4),
            "scores": torch.zeros(count),
            "classes": torch.zeros(count, dtype=torch.int64),
        }

    onnx = FORMATS["onnx"]
    monkeypatch.setattr("detr_d2.export.run.record", lambda graph, shape: None)
    monkeypatch.setattr(onnx, "write", lambda path, *_: path.write_bytes(b"zeros"))
    monkeypatch.setattr(onnx, "load", lambda path, names: zeros)
    with pytest.raises(ValueError, match=r"was not kept: it differs from the model by more than 4e-05 \("):
        write(tmp_path, "detr", replace(FIXED, batch=1))
    assert [file.name for file in tmp_path.iterdir()] == ["model.pth"]


def test_what_is_not_installed_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from detr_d2.export import formats

    find = formats.importlib.util.find_spec
    monkeypatch.setattr(formats.importlib.util, "find_spec", lambda name: None if name == "onnxscript" else find(name))
    with pytest.raises(ValueError, match=r"ONNX needs onnxscript, not installed: pip install -e '.\[export\]'"):
        write(tmp_path, "detr", FIXED)
