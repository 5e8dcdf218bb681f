"""tools/benchmark.py as a user runs it, on models of a fraction of the published width."""

import functools
import json
from pathlib import Path
from types import ModuleType

import detectron2
import pytest
import torch

REPO = Path(__file__).parents[2]
DETR = str(REPO / "configs" / "COCO-Detection" / "detr_R_50_300ep.yaml")
DEFORMABLE = str(REPO / "configs" / "COCO-Detection" / "deformable_detr_R_50_two_stage.yaml")
COCO_PANOPTIC = str(REPO / "configs" / "COCO-PanopticSegmentation" / "panoptic_detr_R_50.yaml")
PANOPTIC = str(REPO / "configs" / "Shapes" / "panoptic_detr_R_18.yaml")
RCNN = str(
    Path(detectron2.__file__).parent
    / "model_zoo"
    / "configs"
    / "COCO-InstanceSegmentation"
    / "mask_rcnn_R_50_FPN_1x.yaml"
)
SMALL = [
    *["MODEL.DEVICE", "cpu", "MODEL.RESNETS.STEM_OUT_CHANNELS", "16", "MODEL.RESNETS.RES2_OUT_CHANNELS", "32"],
    *["MODEL.RESNETS.WIDTH_PER_GROUP", "8", "MODEL.DETR.HIDDEN_DIM", "32", "MODEL.DETR.ENC_LAYERS", "2"],
    *["MODEL.DETR.DEC_LAYERS", "2", "MODEL.DETR.DIM_FEEDFORWARD", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "12"],
]
QUICK = ["--size", "64", "64", "--rounds", "2", "--threads", "1", "--warmup", "1"]


@pytest.fixture
def tool(load_tool) -> ModuleType:
    return load_tool("benchmark")


def row_of(text: str, title: str, name: str) -> list[str]:
    """The row of a mode and an implementation in a table of Markdown."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return next(row for row in rows if row[:2] == [title, name])


def test_both_modes_beside_the_reference(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("MALLOC_TOP_PAD_", "4096")
    output = tmp_path / "benchmark.json"
    words = ["--config-file", DETR, "--mode", "both", "--reference", "transformers", "--batch-size", "2", "--no-memory"]
    assert tool.main([*words, *QUICK, "--iters", "2", "--output", str(output), *SMALL]) == 0
    report = json.loads(output.read_text())

    assert report["settings"]["config_file"] == DETR
    assert report["settings"]["sizes"] == [[64, 64]]
    expected = {"batch_size": 2, "rounds": 2, "iterations": 2, "amp": False, "threads": 1, "precision": "float32"}
    assert expected.items() <= report["settings"].items()
    assert {"device", "torch", "threads", "cudnn_allow_tf32", "matmul_allow_tf32"} <= report["environment"].keys()
    assert report["environment"]["torch"] == torch.__version__
    assert report["environment"]["variables"]["MALLOC_TOP_PAD_"] == "4096"
    assert report["reference"] == {
        "model": "transformers DetrForObjectDetection",
        "backbone": "its own",
        "attention": "sdpa",
    }
    assert report["agreement"]["detections"] == 2 * 12
    assert report["agreement"]["logits"] < 1e-3
    assert report["agreement"]["classes_seen"] > 5
    for mode in ("inference", "train"):
        results = report["results"][mode]
        for name in ("ours", "transformers"):
            batch, image = results[name]["batch_ms"], results[name]["image_ms"]
            assert 0 < batch["min"] <= batch["p50"] <= batch["max"]
            assert image["p50"] == pytest.approx(batch["p50"] / 2)
            assert results[name]["images_per_second"] == pytest.approx(1000 / image["p50"])
        ratio = results["times_as_fast"]
        own, reference = results["ours"]["rounds_ms"], results["transformers"]["rounds_ms"]
        assert ratio["rounds"] == pytest.approx([b / a for a, b in zip(own, reference, strict=True)])
        assert ratio["min"] <= ratio["median"] <= ratio["max"]

    text = capsys.readouterr().out
    for mode, title in (("inference", "inference"), ("train", "training step")):
        assert row_of(text, title, "ours")
        assert row_of(text, title, "transformers")
        ratio = report["results"][mode]["times_as_fast"]["median"]
        assert f"{title.capitalize()}: {ratio:.2f} times as fast as the reference, the median of 2 rounds" in text
    assert "Same weights" in text


def test_memory_of_both_on_a_cpu(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("a CPU's peak memory is told by Linux only")
    output = tmp_path / "benchmark.json"
    words = ["--config-file", DETR, "--mode", "train", "--reference", "transformers", "--output", str(output)]
    assert tool.main([*words, *QUICK, *SMALL]) == 0
    results = json.loads(output.read_text())["results"]["train"]
    for name in ("ours", "transformers"):
        memory = results[name]["memory_mib"]
        # Gradients and AdamW's two moments of the trained parameters alone are more than a MiB.
        assert memory["growth"] == pytest.approx(memory["peak"] - memory["baseline"])
        assert 1 < memory["growth"] < 500
        assert memory["baseline"] > 100
    assert results["memory_growth_ratio"] > 0
    assert "of its memory growth" in capsys.readouterr().out


def test_panoptic_models(tool: ModuleType, tmp_path: Path) -> None:
    output = tmp_path / "benchmark.json"
    words = ["--config-file", PANOPTIC, "--mode", "both", "--no-memory", "--output", str(output), *QUICK]
    assert tool.main([*words, "MODEL.DEVICE", "cpu", "MODEL.PANOPTIC_DETR.THING_CLASSES", "[0, 1, 2, 3]"]) == 0
    results = json.loads(output.read_text())["results"]
    assert all(results[mode]["ours"]["images_per_second"] > 0 for mode in ("inference", "train"))


def test_panoptic_models_beside_the_reference(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "benchmark.json"
    words = ["--config-file", COCO_PANOPTIC, "--mode", "both", "--reference", "transformers", "--batch-size", "2"]
    small = [*SMALL, "MODEL.DETR.HIDDEN_DIM", "64", "MODEL.DETR.NUM_OBJECT_QUERIES", "30"]
    assert tool.main([*words, *QUICK, "--no-memory", "--output", str(output), *small]) == 0
    report = json.loads(output.read_text())
    assert report["reference"]["model"] == "transformers DetrForSegmentation"
    assert sum(report["agreement"]["queries"]) > 4
    for mode in ("inference", "train"):
        assert report["results"][mode]["times_as_fast"]["median"] > 0
    assert "queries enter the map" in capsys.readouterr().out


def test_deformable_models_beside_the_reference(
    tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = tmp_path / "benchmark.json"
    words = ["--config-file", DEFORMABLE, "--mode", "both", "--reference", "transformers", "--no-memory"]
    words += ["--size", "128", "128", *QUICK[3:]]  # the fourth level needs more than one cell
    assert tool.main([*words, "--output", str(output), *SMALL]) == 0
    report = json.loads(output.read_text())
    assert report["reference"]["model"] == "transformers DeformableDetrForObjectDetection"
    assert report["agreement"]["detections"] > 50
    assert report["agreement"]["classes_seen"] > 5
    for mode in ("inference", "train"):
        assert report["results"][mode]["times_as_fast"]["median"] > 0
    assert "0 of another class" in capsys.readouterr().out


def test_detectron2s_own_models(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    output = tmp_path / "benchmark.json"
    words = ["--config-file", RCNN, "--mode", "both", "--no-memory", "--output", str(output), *QUICK]
    assert tool.main([*words, "MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "64"]) == 0
    report = json.loads(output.read_text())
    assert report["settings"]["meta_architecture"] == "GeneralizedRCNN"
    assert not {"agreement", "reference"} & report.keys()
    for mode in ("inference", "train"):
        assert report["results"][mode].keys() == {"ours"}
        assert report["results"][mode]["ours"]["images_per_second"] > 0
    assert "times as fast" not in capsys.readouterr().out


def test_other_weights_end_the_run(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    from detr_d2.measure import transformers_reference

    build = transformers_reference.build_transformers

    def perturbed(*args: object) -> torch.nn.Module:
        model = build(*args)
        model.class_labels_classifier.bias.data[0] += 0.01
        return model

    monkeypatch.setattr(transformers_reference, "build_transformers", perturbed)
    output = tmp_path / "benchmark.json"
    words = ["--config-file", DETR, "--reference", "transformers", "--no-memory", "--output", str(output)]
    assert tool.main([*words, *QUICK, *SMALL]) == 1
    message = capsys.readouterr().err.strip().splitlines()
    assert message[-1].startswith("benchmark.py: the two models do not compute the same")
    assert "logits 0.01" in message[-1]
    assert not output.exists()


def test_one_operator(
    tool: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    small = functools.partial(tool.OperatorSettings, shapes=((9, 12), (4, 6)), heads=2, head_dim=8)
    monkeypatch.setattr(tool, "OperatorSettings", small)
    output = tmp_path / "benchmark.json"
    words = ["--operator", "ms_deform_attn", "--reference", "transformers", "--mode", "both", "--output", str(output)]
    assert tool.main([*words, "--rounds", "2", "--threads", "1", "--no-memory"]) == 0
    report = json.loads(output.read_text())
    assert report["multiply_adds"] == 5 * (9 * 12 + 4 * 6) * 2 * 8 * 2 * 4
    assert report["agreement"].keys() == {"output", "value", "locations", "weights"}
    assert max(report["agreement"].values()) < 1e-4
    for mode in ("inference", "train"):
        own, reference = (report["results"][mode][name]["rounds_ms"] for name in ("ours", "transformers"))
        ratio = report["results"][mode]["times_as_fast"]
        assert ratio["rounds"] == pytest.approx([b / a for a, b in zip(own, reference, strict=True)])
        # Of 132 queries and 2 heads of 8 channels, with 2 levels of 4 points, in fp32.
        value, locations, weights = 4 * 132 * 16, 4 * 132 * 2 * 8 * 2, 4 * 132 * 2 * 8
        traffic = 2 * value + locations + weights
        if mode == "train":
            traffic += 3 * value + 2 * (locations + weights)
        for name in ("ours", "transformers"):
            result = report["results"][mode][name]
            reached = traffic / 1e6 / result["batch_ms"]["p50"]
            assert result["bandwidth"]["gb_per_s"] == pytest.approx(reached)
            assert result["bandwidth"]["share_of_copy"] == pytest.approx(reached / report["copy_gb_per_s"])
    text = capsys.readouterr().out
    assert row_of(text, "forward", "ours")
    assert "Forward + backward:" in text


@pytest.mark.parametrize("reference", ["torch", "deformops"])
def test_one_operator_beside_another_implementation(
    tool: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture, reference: str
) -> None:
    if reference == "deformops":
        pytest.importorskip("deformops", reason="needs Python 3.12 and pip install deformops")
    small = functools.partial(tool.OperatorSettings, shapes=((9, 12), (4, 6)), heads=2, head_dim=8)
    monkeypatch.setattr(tool, "OperatorSettings", small)
    words = ["--operator", "ms_deform_attn", "--mode", "both", "--rounds", "1", "--threads", "1", "--no-memory"]
    assert tool.main([*words, "--reference", reference]) == 0
    assert row_of(capsys.readouterr().out, "forward", reference)
    monkeypatch.setenv("DETR_D2_MS_DEFORM_ATTN", "torch")
    if reference == "torch":
        assert tool.main([*words, "--reference", reference]) != 0
        assert "unset it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config-file", "nowhere.yaml"], "nowhere.yaml"),
        (["--config-file", DETR, "MODEL.DETR.NUM_QUERIES", "5"], "There is no config key MODEL.DETR.NUM_QUERIES"),
        (["--config-file", RCNN, "--reference", "transformers"], "MODEL.META_ARCHITECTURE is 'GeneralizedRCNN'"),
        (["--config-file", DETR, "--amp", "SOLVER.AMP.PRECISION", "float16"], 'set it to "bfloat16"'),
        (["--config-file", DETR, "--output", "nowhere/a.json"], "no folder 'nowhere'"),
        (["--config-file", DETR, "--objects", "13", "--mode", "train", *QUICK, *SMALL], "NUM_OBJECT_QUERIES"),
        (["--config-file", DETR, *SMALL, "MODEL.WEIGHTS", "nowhere.pth"], "nowhere.pth"),
    ],
)
def test_bad_input_ends_in_one_clear_error(
    tool: ModuleType, capsys: pytest.CaptureFixture, words: list[str], message: str
) -> None:
    options = words if "MODEL.DEVICE" in words else [*words, "MODEL.DEVICE", "cpu"]
    assert tool.main(options) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    last = captured.err.strip().splitlines()[-1]
    assert last.startswith("benchmark.py: ")
    assert message in last


@pytest.mark.parametrize("words", [["--size", "64", "0"], ["--rounds", "-1"], ["--batch-size", "0"]])
def test_numbers_must_be_positive(tool: ModuleType, capsys: pytest.CaptureFixture, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--config-file", DETR, *words])
    assert "must be at least 1" in capsys.readouterr().err
