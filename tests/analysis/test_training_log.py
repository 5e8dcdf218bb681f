"""Logs of trainings as they are found: evaluated between lines, resumed, killed, broken, running at this moment."""

import json
import math
from pathlib import Path

import pytest
from detectron2.utils.events import EventStorage, JSONWriter

from detr_d2.analysis.training_log import TrainingLog, read_batch_size


def write(path: Path, lines: list[dict], end: str = "") -> TrainingLog:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + end)
    return TrainingLog.read(path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.json"


def test_curve_over_iterations_images_and_time(path):
    log = write(
        path,
        [
            {"iteration": 9, "time": 3.0},
            {"iteration": 9, "bbox/AP": 10.0},
            {"iteration": 19, "time": 6.0, "bbox/AP": 20.0},
            {"iteration": 19, "time": 6.0, "bbox/AP": 21.0},  # a resumed run
        ],
    )
    curve = log.curve("bbox/AP", batch_size=4)
    assert curve.iterations == [10, 20]
    assert curve.images == [40, 80]
    assert curve.values == [10.0, 21.0]
    assert curve.minutes == pytest.approx([0.5, 1.5])
    assert log.minutes == pytest.approx(1.5)
    assert log.curve("segm/AP", 4).values == []
    assert log.seconds_per_iteration() == 6.0


def test_an_evaluation_between_two_lines_takes_no_time_away(path):
    """It has a line of its own, without a time; the one after the last iteration counts that iteration once."""
    lines = [
        {"iteration": 19, "time": 3.0, "total_loss": 2.0},
        {"iteration": 15, "bbox/AP": 1.0},
        {"iteration": 20, "bbox/AP": 2.0},
    ]
    log = write(path, lines)
    curve = log.curve("bbox/AP", batch_size=2)
    assert curve.iterations == [16, 20]
    assert curve.images == [32, 40]
    assert curve.minutes == pytest.approx([0.8, 1.0])
    assert log.minutes == pytest.approx(1.0)
    assert log.iterations == 20


def test_what_a_run_did_beyond_the_checkpoint_it_was_resumed_from_does_not_count(path):
    before = [{"iteration": i, "total_loss": 5.0, "time": 1.0} for i in (19, 39, 59)] + [
        {"iteration": 50, "bbox/AP": 9}
    ]
    after = [{"iteration": i, "total_loss": 3.0, "time": 1.0} for i in (39, 49)]
    log = write(path, before + after)
    assert log.curve("total_loss").iterations == [20, 40, 50]
    assert log.curve("total_loss").values == [5.0, 3.0, 3.0]
    assert log.curve("bbox/AP").values == []
    assert log.minutes == pytest.approx(50 / 60)


@pytest.mark.parametrize("half", ["{", '{"iteration": 39, "total_l', '{"iteration": 3'])
def test_a_line_that_is_being_written_is_left_out(path, half):
    log = write(path, [{"iteration": 19, "total_loss": 5.0}], end=half)
    assert log.curve("total_loss").iterations == [20]


def test_a_half_line_that_a_resumed_run_wrote_on(path):
    path.write_text('{"iteration": 19, "total_loss": 5.0}\n{"iteration": 39, "to{"iteration": 39, "total_loss": 4.0}\n')
    assert TrainingLog.read(path).curve("total_loss").values == [5.0, 4.0]


@pytest.mark.parametrize(
    "text", ["no json", "[1]", "{}", '{"iteration": "x"}', '{"iteration": 1}\n{"iterat\n{"iteration": 2}']
)
def test_a_file_that_is_no_log(path, text):
    path.write_text(text)
    with pytest.raises(ValueError, match=r"metrics\.json, line [12] is not"):
        TrainingLog.read(path)


def test_losses_that_are_not_finite(path):
    log = write(path, [{"iteration": 9, "total_loss": 1.0}, {"iteration": 19, "total_loss": math.nan}])
    assert log.first_not_finite(["total_loss"]) == 19
    assert log.first_not_finite(["bbox/AP"]) is None
    assert math.isnan(log.curve("total_loss").values[1])


def test_what_detectron2_writes(path):
    with EventStorage() as storage:
        writer = JSONWriter(str(path), window_size=1)
        for iteration in range(8):
            storage.iter = iteration
            storage.put_scalars(total_loss=float(iteration), time=0.5, smoothing_hint=False)
            if iteration == 5:
                storage.put_scalar("bbox/AP", 7.0, smoothing_hint=False)
            if iteration % 4 == 3:
                writer.write()
    log = TrainingLog.read(path)
    assert log.curve("total_loss").values == [3.0, 7.0]
    assert log.curve("bbox/AP").iterations == [6]
    assert log.minutes == pytest.approx(8 * 0.5 / 60)
    assert log.names == ["bbox/AP", "time", "total_loss"]


def test_batch_size(tmp_path, small_detr_cfg):
    path = tmp_path / "config.yaml"
    assert read_batch_size(path) is None
    path.write_text(small_detr_cfg.dump())
    assert read_batch_size(path) == small_detr_cfg.SOLVER.IMS_PER_BATCH
    path.write_text("SOLVER: {}")
    assert read_batch_size(path) is None
