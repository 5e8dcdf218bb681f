"""tools/compare.py as a user runs it: two families on a few images of Shapes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.engine import load_config
from detr_d2.measure.models import ComparedModel

REPO = Path(__file__).parents[2]
DETR, FCOS = (str(REPO / "configs" / "Shapes" / f"{name}.yaml") for name in ("detr_R_18", "fcos_R_18"))
SMALL = ["MODEL.DEVICE", "cpu", "INPUT.MIN_SIZE_TEST", "48", "INPUT.MIN_SIZE_TRAIN", "(48,)"]
SMALL += ["MODEL.FCOS.SCORE_THRESH_TEST", "0.0"]  # else one with random weights detects nothing
QUICK = ["--images", "2", "--batch-size", "2", "--train-batch-size", "2", "--rounds", "2", "--train-steps", "1"]
QUICK += ["--resamples", "20", "--threads", "1"]


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("compare")


@pytest.fixture(scope="module")
def weights(shapes_root: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``CONFIG@FILE`` with random weights, by name."""
    folder = tmp_path_factory.mktemp("weights")
    words = {}
    for name, config in (("detr", DETR), ("fcos", FCOS)):
        file = folder / f"{name}.pth"
        torch.manual_seed(0)
        torch.save({"model": build_model(load_config(config, SMALL)).state_dict()}, file)
        words[name] = f"{name}={config}@{file}"
    return words


@pytest.fixture(scope="module")
def finished(tool: ModuleType, weights: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a comparison of everything but memory, which takes processes of its own."""
    output = tmp_path_factory.mktemp("comparison") / "new"
    parts = ["--parts", "accuracy", "flops", "latency", "training"]
    assert tool.main([*weights.values(), "--output", str(output), *QUICK, *parts, "--opts", *SMALL]) == 0
    return output


def test_one_table_of_all_models(finished: Path) -> None:
    rows = list(csv.DictReader((finished / "comparison.csv").open()))
    assert [row["model"] for row in rows] == ["detr", "fcos"]
    for row, config in zip(rows, (DETR, FCOS), strict=True):
        count = sum(p.numel() for p in build_model(load_config(config, SMALL)).parameters())
        assert float(row["parameters (M) [measured]"]) == pytest.approx(count / 1e6)
    for row in rows:
        assert 0 <= float(row["box AP [measured]"]) <= 100
        assert float(row["GFLOPs (multiply-adds), mean [measured]"]) > 0
        for batch in (1, 2):
            title = f"latency, batch {batch}, fp32 (ms/image)"
            parts = [float(row[f"{title}: {part}, p50 [measured]"]) for part in ("mapper", "model", "post-processing")]
            assert min(parts) > 0
            assert float(row[f"{title}, p50 [measured min]"]) <= float(row[f"{title}, p50 [measured max]"])
            assert float(row[f"latency, batch {batch}, amp (ms/image), p95 [measured]"]) > 0
        assert float(row["training (images/s) [measured]"]) > 0
        assert 0 < float(row["training, waiting for data (% of the time) [measured]"]) < 100

    html = (finished / "comparison.html").read_text()
    markdown = (finished / "comparison.md").read_text()
    for text in (html, markdown):
        assert all(name in text for name in ("detr", "fcos", "detr - fcos", "20 resamples", "multiply-adds"))
    assert html.count("data:image/png") == 2
    for name in ("accuracy_against_latency", "accuracy_against_parameters"):
        assert (finished / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_one_json_a_model_says_what_it_was_measured_of(finished: Path) -> None:
    for name in ("detr", "fcos"):
        result = json.loads((finished / name / "result.json").read_text())
        assert result["label"] == name
        assert len(result["config_hash"]) == len(result["weights_hash"]) == 16
        assert set(result["parts"]) == {"size", "accuracy", "flops", "latency", "training"}
        for part in result["parts"].values():
            assert {"device", "driver", "torch", "detectron2", "commit"} <= part["environment"].keys()
        assert result["parts"]["flops"]["result"]["unknown"] == {}
        assert result["parts"]["flops"]["result"]["images"] == 2
        assert len(result["parts"]["latency"]["result"]["batch 1 amp"]["total"]["rounds"]) == 2


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The labels of the models that are built."""
    labels: list[str] = []
    build = ComparedModel.build

    def recording(model: ComparedModel) -> torch.nn.Module:
        labels.append(model.label)
        return build(model)

    monkeypatch.setattr(ComparedModel, "build", recording)
    return labels


def test_what_is_finished_is_not_computed_again(
    tool: ModuleType, weights: dict[str, str], tmp_path: Path, built: list[str]
) -> None:
    def run(words: list[str], *more: str) -> list[str]:
        built.clear()
        arguments = [*words, "--output", str(tmp_path), *QUICK, *more, "--opts", *SMALL]
        assert tool.main(arguments) == 0
        return built.copy()

    flops = ("--parts", "flops")
    assert run(list(weights.values()), *flops) == ["detr", "fcos"] * 2  # for their size, then for FLOPs
    first = (tmp_path / "detr" / "result.json").read_text()
    assert run(list(weights.values()), *flops) == []
    assert (tmp_path / "detr" / "result.json").read_text() == first

    file = Path(weights["fcos"].split("@")[1])
    changed = tmp_path / "changed.pth"
    state = torch.load(file, weights_only=True)["model"]
    key = next(iter(state))
    torch.save({"model": state | {key: state[key] + 1}}, changed)
    assert set(run([weights["detr"], f"fcos={FCOS}@{changed}"], *flops)) == {"fcos"}
    # Latency is measured of both or of none.
    both = [weights["detr"], f"fcos={FCOS}@{changed}"]
    assert set(run(both, "--parts", "flops", "latency")) == {"detr", "fcos"}
    assert run(both, "--parts", "flops", "latency") == []
    assert "latency" not in (run(both, *flops), (tmp_path / "comparison.csv").read_text())[1]


def test_memory_in_processes_of_their_own(tool: ModuleType, weights: dict[str, str], tmp_path: Path) -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("a CPU's peak memory is told by Linux only")
    assert tool.main([weights["fcos"], "--output", str(tmp_path), *QUICK, "--parts", "memory", "--opts", *SMALL]) == 0
    columns = csv.DictReader((tmp_path / "comparison.csv").open()).fieldnames
    assert len(columns) == len(set(columns)) == 7  # the label, two counts of parameters, two figures of two modes
    memory = json.loads((tmp_path / "fcos" / "result.json").read_text())["parts"]["memory"]["result"]
    for mode in ("inference", "train"):
        assert memory[mode]["growth"] == pytest.approx(memory[mode]["peak"] - memory[mode]["baseline"])
        assert memory[mode]["growth"] > 0


def test_training_for_a_budget_first(tool: ModuleType, shapes_root: Path, tmp_path: Path, monkeypatch) -> None:
    opts = [*SMALL, "SOLVER.IMS_PER_BATCH", "2", "DATALOADER.NUM_WORKERS", "0"]
    words = [FCOS, "--train", "--train-iters", "2", "--output", str(tmp_path), *QUICK]
    words += ["--parts", "accuracy", "--opts", *opts]
    assert tool.main(words) == 0
    result = json.loads((tmp_path / "fcos_R_18" / "result.json").read_text())
    assert result["parts"]["budget"]["result"]["iterations"] == 2
    assert result["parts"]["budget"]["result"]["images"] == 4
    assert Path(result["weights"]).name == "model_final.pth"
    assert (tmp_path / "training_curves.png").is_file()
    row = next(csv.DictReader((tmp_path / "comparison.csv").open()))
    assert float(row["trained images [measured]"]) == 4
    # A second run neither trains nor evaluates; the folder can be compared by itself.
    monkeypatch.setattr("detr_d2.measure.budget._run", lambda *a: pytest.fail("trained again"))
    assert tool.main(words) == 0
    folder = str(Path(result["weights"]).parent)
    again = ["--output", str(tmp_path / "again"), *QUICK, "--parts", "accuracy", "--opts", *SMALL]
    assert tool.main([folder, *again]) == 0


@pytest.fixture
def refused(tool: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture) -> Callable[..., str]:
    """What the tool says to bad input, in one line."""

    def run(*words: str) -> str:
        assert tool.main([words[0], "--output", str(tmp_path / "out"), *words[1:], "--opts", *SMALL]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def test_bad_models_are_refused_in_one_line(
    refused: Callable[..., str], weights: dict[str, str], tmp_path: Path
) -> None:
    assert "MODEL.WEIGHTS is empty; name the weights as" in refused(DETR)
    assert "the weights nowhere.pth do not exist" in refused(f"{DETR}@nowhere.pth")
    assert "holds no config.yaml: it is no output folder" in refused(str(tmp_path))
    (tmp_path / "config.yaml").write_text(Path(FCOS).read_text().replace("Base-", f"{REPO}/configs/Shapes/Base-"))
    assert "model_final.pth does not exist: finish the training" in refused(str(tmp_path))
    assert "nowhere is neither a folder nor a yaml file" in refused("nowhere")
    assert "'nowhere.yaml' does not exist" in refused("nowhere.yaml")
    assert "Dataset 'shapes_vla'" in refused(weights["detr"], "--dataset", "shapes_vla")
    assert "Did you mean shapes_val" in refused(weights["detr"], "--dataset", "shapes_vla")
    assert "--train takes configs" in refused(weights["detr"], "--train", "--train-iters", "1")


def test_models_that_cannot_stand_side_by_side(
    tool: ModuleType, weights: dict[str, str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    output = ["--output", str(tmp_path), "--parts", "flops"]
    assert tool.main([DETR, DETR, *output, "--opts", *SMALL]) == 1
    assert "Two models are called 'detr_R_18'" in capsys.readouterr().err
    other = tmp_path / "other.yaml"
    other.write_text(f'_BASE_: "{FCOS}"\nDATASETS:\n  TEST: ("shapes_train",)\n')
    assert tool.main([DETR, str(other), *output, "--opts", *SMALL]) == 1
    error = capsys.readouterr().err
    assert "detr_R_18 is evaluated on shapes_val (8 images), other on shapes_train (24 others)" in error
    assert "--dataset" in error


def test_weights_of_a_part_are_refused(refused: Callable[..., str], weights: dict[str, str], tmp_path: Path) -> None:
    state = torch.load(weights["fcos"].split("@")[1], weights_only=True)["model"]
    part = tmp_path / "part.pth"
    torch.save({"model": {key: value for key, value in state.items() if not key.startswith("head")}}, part)
    message = refused(f"{FCOS}@{part}", "--parts", "flops")
    assert "head" in message
    assert "part.pth" in message


@pytest.mark.parametrize(
    "words", [["--train"], ["--train-iters", "3"], ["--train", "--train-iters", "3", "--train-minutes", "1"]]
)
def test_a_budget_needs_training_and_training_a_budget(tool: ModuleType, words: list[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main([DETR, "--output", "out", *words])
