"""tools/plot_logs.py on logs of several kinds."""

import json
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure

from detr_d2.analysis.log_plots import LOSSES, choose_losses, choose_metrics, plot_runs, read_runs


def make_run(folder: Path, *, batch_size: int | None = 4, evaluated: bool = True, losses: tuple[str, ...] = ()) -> Path:
    folder.mkdir(parents=True)
    lines = []
    for i in range(19, 200, 20):
        parts = dict.fromkeys(("loss_ce", "loss_ce_0", "loss_ce_1", "loss_giou", *losses), 1 / (i + 1))
        lines.append({"iteration": i, "time": 0.6, "lr": 0.1, "total_loss": sum(parts.values()), **parts})
        if evaluated and i % 100 == 99:
            lines.append({"iteration": i, "bbox/AP": i / 10, "bbox/AP50": i / 5})
    (folder / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if batch_size:
        (folder / "config.yaml").write_text(f"SOLVER:\n  IMS_PER_BATCH: {batch_size}\n")
    return folder


def curves(figure: Figure) -> dict[str, list[tuple[np.ndarray, np.ndarray, float]]]:
    """What each panel shows, by its y label or title: x, y and opacity of each curve; of those without, by place."""
    found = {}
    for place, axis in enumerate(figure.axes):
        name = axis.get_ylabel() or axis.get_title() or str(place)
        found[name] = [(*line.get_data(), line.get_alpha() or 1.0) for line in axis.get_lines()]
    return found


def test_two_runs_over_everything(tmp_path):
    make_run(tmp_path / "a", batch_size=4)
    make_run(tmp_path / "b", batch_size=8, losses=("loss_mask",))
    runs = read_runs([str(tmp_path / "a"), str(tmp_path / "b" / "metrics.json")])
    assert [run.label for run in runs] == ["a", "b"]
    losses = choose_losses(runs, LOSSES)
    assert list(losses) == ["loss_ce", "loss_giou", "loss_mask"]
    figure = plot_runs(runs, over=["images", "time"], metrics=choose_metrics(runs, []), losses=losses)
    shown = curves(figure)
    assert {"total loss", "bbox/AP", "learning rate", "loss_ce", "loss_giou", "loss_mask"} <= shown.keys()
    assert [x.tolist() for x, _, _ in shown["bbox/AP"]] == [[400, 800], [800, 1600]]
    by_time = figure.axes[figure.axes.index(next(a for a in figure.axes if a.get_ylabel() == "bbox/AP")) + 1]
    np.testing.assert_allclose(by_time.get_lines()[0].get_xdata(), [1.0, 2.0])
    assert [y.tolist() for _, y, _ in shown["bbox/AP"]] == [[9.9, 19.9]] * 2
    assert sorted(alpha for _, _, alpha in shown["loss_ce"]) == [0.35] * 4 + [1.0] * 2  # layers before the last
    assert [len(x) for x, _, _ in shown["loss_mask"]] == [0, 10]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    for name in ("detr/train-1", "fcos/train-1"):
        make_run(tmp_path / name)
    words = [str(tmp_path / name) for name in ("detr/train-1", "fcos/train-1")]
    assert [run.label for run in read_runs(words)] == ["detr/train-1", "fcos/train-1"]
    assert [run.label for run in read_runs(words[:1])] == ["train-1"]
    assert [run.label for run in read_runs([f"DETR={words[0]}", words[1]])] == ["DETR", "fcos/train-1"]


def test_losses_of_layers_can_be_asked_for(tmp_path):
    runs = read_runs([str(make_run(tmp_path / "a"))])
    assert choose_losses(runs, r"_ce") == {"loss_ce": ["loss_ce", "loss_ce_0", "loss_ce_1"]}
    alone = choose_losses(runs, r"loss_ce_0")
    figure = plot_runs(runs, over=["iterations"], metrics=[], losses=alone)
    assert [alpha for _, _, alpha in curves(figure)["loss_ce"]] == [1.0]  # not faint beside nothing


def test_a_loss_that_is_not_finite_leaves_a_gap_and_is_named(tmp_path):
    folder = make_run(tmp_path / "a")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 219, "total_loss": NaN, "loss_ce": Infinity, "lr": 0.1}\n')
    runs = read_runs([str(folder)])
    figure = plot_runs(runs, over=["iterations"], metrics=[], losses=choose_losses(runs, LOSSES))
    assert "iteration 219" in figure.legends[0].get_texts()[0].get_text()
    assert np.ma.count_masked(curves(figure)["total loss"][0][1]) == 1
    assert all(np.isfinite(axis.get_ylim()).all() for axis in figure.axes)


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_tool_writes_a_picture(load_tool, tmp_path, suffix):
    """As the README calls it; also of a run that is just writing a line."""
    folder = make_run(tmp_path / "run")
    with open(folder / "metrics.json", "a") as file:
        file.write('{"iteration": 219, "tot')
    output = tmp_path / "new" / f"curves{suffix}"
    assert load_tool("plot_logs").main([str(folder), "--metric", "bbox/AP50", "--output", str(output)]) == 0
    assert output.stat().st_size > 5000
    assert [path.name for path in output.parent.iterdir()] == [output.name]


def test_without_evaluation_and_without_config(load_tool, tmp_path, capsys):
    folder = make_run(tmp_path / "run", batch_size=None, evaluated=False)
    assert load_tool("plot_logs").main([str(folder), "--output", str(tmp_path / "x.png"), "--losses", ""]) == 0
    said = capsys.readouterr().out
    assert "batch size of run: iterations instead of images" in said
    assert "No run has been evaluated yet" in said
