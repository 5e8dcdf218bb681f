"""tools/demo.py on images, folders, globs, videos and a camera, with models of every kind."""

import json
import multiprocessing
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import cv2
import numpy as np
import onnx
import pytest
import torch
from detectron2.data import MetadataCatalog
from pycocotools.coco import COCO

from detr_d2 import Predictor
from detr_d2.data.image_files import read_ids
from detr_d2.demo import outputs
from detr_d2.demo.onnx import OnnxPredictor
from detr_d2.demo.run import Demo
from detr_d2.engine import load_config
from detr_d2.export import ExportSettings, export_model

# Random weights that find something.
LOW = [
    *["MODEL.DEVICE", "cpu", "MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.05", "INPUT.MIN_SIZE_TEST", "64"],
    *["MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.05", "TEST.DETECTIONS_PER_IMAGE", "5"],
    *["MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.05"],
]


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("demo")


@pytest.fixture(scope="module")
def checkpoint(save_run, shapes_root: Path, tmp_path_factory) -> Callable[[str], Path]:
    """``checkpoint("detr_R_18")`` -> a checkpoint with its ``config.yaml`` beside it."""
    files: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in files:
            files[name] = save_run(tmp_path_factory.mktemp(name), name, *LOW)
        return files[name]

    return make


@pytest.fixture
def run(tool: ModuleType, checkpoint) -> Callable[..., int]:
    """``run("detr_R_18", "--input", ...)`` -> the exit status."""
    return lambda name, *words: tool.main(["--weights", str(checkpoint(name)), *map(str, words)])


@pytest.fixture(scope="session")
def images(shapes_root: Path) -> list[Path]:
    return sorted((shapes_root / "shapes" / "val").glob("*.png"))[:3]


def write_video(path: Path, frames: int, size: tuple[int, int] = (48, 64), rate: float = 12.5) -> Path:
    """A square that moves to the right; ``size`` is (height, width)."""
    codec = "MJPG" if path.suffix == ".avi" else "mp4v"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), rate, size[::-1])
    for index in range(frames):
        frame = np.full((*size, 3), 80, np.uint8)
        frame[10:30, 2 * index : 2 * index + 20] = (40, 40, 220)
        writer.write(frame)
    writer.release()
    return path


def read_video(path: Path) -> tuple[float, list[np.ndarray]]:
    """Frame rate and frames."""
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    return capture.get(cv2.CAP_PROP_FPS), frames


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_images_folders_and_globs_are_drawn_once_each(run, images, tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for path in images:
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "notes.txt").write_text("no image")
    words = ["--input", folder, f"{folder}/*1.png", folder / images[1].name, "--output", tmp_path / "out"]
    assert run("detr_R_18", *words, "--threshold", "0", "--batch-size", "2") == 0
    assert names(tmp_path / "out") == [path.name for path in images]
    for path in images:
        before, after = cv2.imread(str(path)), cv2.imread(str(tmp_path / "out" / path.name))
        assert before.shape == after.shape
        assert (before != after).any()


def test_one_image_to_one_file_and_the_same_picture_again(run, images, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        assert run("panoptic_detr_R_18", "--input", images[0], "--output", tmp_path / name, "--threshold", "0") == 0
    assert names(tmp_path) == ["a.jpg", "b.jpg"]
    assert (tmp_path / "a.jpg").read_bytes() == (tmp_path / "b.jpg").read_bytes()


def test_above_the_threshold_only(run, images, tmp_path: Path) -> None:
    words = ["--input", images[0], "--output", tmp_path / "x.png", "--json", tmp_path / "x.json", "--threshold", "1"]
    assert run("detr_R_18", *words) == 0
    assert json.loads((tmp_path / "x.json").read_text()) == []
    drawn, image = cv2.imread(str(tmp_path / "x.png")), cv2.imread(str(images[0]))
    assert np.abs(drawn.astype(int) - image).max() <= 1


@pytest.mark.parametrize("model", ["faster_rcnn_R_18", "panoptic_fpn_R_18"])
def test_json_is_cocos(model: str, run, images, shapes_root: Path, tmp_path: Path) -> None:
    words = ["--input", *images, "--json", tmp_path / "new" / "x.json", "--threshold", "0.05", "--batch-size", "2"]
    assert run(model, *words) == 0
    assert names(tmp_path) == ["new", "new/x.json", "new/x_images.json"]
    results = json.loads((tmp_path / "new" / "x.json").read_text())
    assert {r["category_id"] for r in results} <= set(
        MetadataCatalog.get("shapes_val").thing_dataset_id_to_contiguous_id
    )
    for annotations in (tmp_path / "new" / "x_images.json", shapes_root / "shapes/annotations/instances_val.json"):
        loaded = COCO(str(annotations)).loadRes(str(tmp_path / "new" / "x.json"))
        assert set(loaded.getImgIds()) >= {int(path.stem) for path in images}
        assert len(loaded.getAnnIds()) == len(results) > 0
    if model == "panoptic_fpn_R_18":
        masks = [loaded.annToMask(annotation) for annotation in loaded.loadAnns(loaded.getAnnIds())]
        sizes = {image["id"]: (image["height"], image["width"]) for image in loaded.dataset["images"]}
        assert [mask.shape for mask in masks] == [sizes[r["image_id"]] for r in results]


@pytest.fixture(scope="module")
def exported(checkpoint, tmp_path_factory) -> Path:
    """A file of the model of ``checkpoint("detr_R_18")``."""
    weights, path = checkpoint("detr_R_18"), tmp_path_factory.mktemp("onnx") / "detr.onnx"
    cfg = load_config(str(weights.with_name("config.yaml")), ["MODEL.WEIGHTS", str(weights)])
    export_model(cfg, path, ExportSettings("onnx", size=(64, 96), dynamic_size=True))
    return path


def test_a_file_of_onnx_gives_what_its_model_gives(tool, run, exported, images, tmp_path: Path) -> None:
    def words(name: str) -> list[str]:
        files = ["--input", *images, "--json", tmp_path / f"{name}.json", "--output", tmp_path / name]
        return [str(word) for word in [*files, "--threshold", "0.02"]]

    assert run("detr_R_18", *words("torch")) == 0
    assert tool.main(["--onnx", str(exported), *words("onnx")]) == 0
    assert names(tmp_path / "onnx") == names(tmp_path / "torch")
    ours, theirs = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("torch", "onnx"))
    assert len(ours) == len(theirs) > 0
    for name in ("score", "bbox"):
        one, other = (sorted(np.ravel([result[name] for result in results])) for results in (ours, theirs))
        np.testing.assert_allclose(one, other, atol=1e-2)


def outside(model: onnx.ModelProto, folder: Path) -> None:
    """Weights that lie in a file beyond the model's folder."""
    (folder.parent / "secret").write_bytes(bytes(10**7))
    tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")


def without_names(model: onnx.ModelProto, folder: Path) -> None:
    kept = [entry for entry in model.metadata_props if entry.key != "class_names"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def with_a_text(model: onnx.ModelProto, folder: Path) -> None:
    next(entry for entry in model.metadata_props if entry.key == "height").value = '"high"'


def with_another_input(model: onnx.ModelProto, folder: Path) -> None:
    model.graph.input.append(onnx.helper.make_tensor_value_info("more", onnx.TensorProto.FLOAT, [1]))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (outside, "cannot be run: .*secret"),
        (without_names, "its metadata has no class_names"),
        (with_a_text, "its metadata has other kinds of values"),
        (with_another_input, "it has other inputs or outputs"),
    ],
)
def test_files_of_onnx_that_do_not_fit_end_in_one_line(change, says, tool, exported, images, tmp_path, capfd) -> None:
    model, path = onnx.load(exported), tmp_path / "model" / "bad.onnx"
    path.parent.mkdir()
    change(model, path.parent)
    path.write_bytes(model.SerializeToString())
    assert tool.main(["--onnx", str(path), "--input", str(images[0]), "--output", str(tmp_path / "drawn")]) == 1
    errors = capfd.readouterr().err.strip().splitlines()
    assert len(errors) == 1
    assert re.search(says, errors[0]), errors
    assert not (tmp_path / "drawn").exists()


def test_classes_without_names_lose_that_image_only(tmp_path: Path) -> None:
    found = SimpleNamespace(boxes=np.ones((1, 4)), scores=np.ones(1), classes=np.array([2]), masks=None)
    predictor = OnnxPredictor(lambda image, threshold: found, ["a", "b"], 0.5)
    with pytest.raises(RuntimeError, match="the file has 2 names of classes, but finds others"):
        predictor([np.zeros((4, 4, 3), np.uint8)])


@pytest.mark.parametrize("words", [["--weights", "x.pth"], ["--amp"], ["--batch-size", "2"], ["SEED", "1"]])
def test_a_file_of_onnx_takes_no_options_of_models(words, tool, capsys) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--onnx", "x.onnx", "--input", "x.png", "--output", "x", *words])
    assert "--onnx is a whole model" in capsys.readouterr().err


def test_panoptic_overlay_and_json(run, images, tmp_path: Path) -> None:
    words = ["--input", *images[:2], "--output", tmp_path / "out", "--panoptic-json", tmp_path / "x.json"]
    assert run("panoptic_fpn_R_18", *words, "--show", "panoptic") == 0
    content = json.loads((tmp_path / "x.json").read_text())
    metadata = MetadataCatalog.get("shapes_val_separated")
    known = {c["id"]: c["isthing"] for c in content["categories"]}
    assert set(metadata.thing_dataset_id_to_contiguous_id) <= {i for i, is_thing in known.items() if is_thing}
    assert names(tmp_path / "x") == [path.name for path in images[:2]]
    assert sum(len(a["segments_info"]) for a in content["annotations"]) > 0
    for path, annotation in zip(images, content["annotations"], strict=False):
        ids = read_ids(tmp_path / "x" / annotation["file_name"])
        assert annotation["image_id"] == int(path.stem)
        assert set(np.unique(ids)) - {0} == {s["id"] for s in annotation["segments_info"]}
        assert all(segment["category_id"] in known for segment in annotation["segments_info"])
        drawn, image = cv2.imread(str(tmp_path / "out" / path.name)), cv2.imread(str(path))
        changed = np.abs(drawn.astype(int) - image).max(-1) > 5
        assert drawn.shape == image.shape
        assert changed[ids > 0].mean() > 0.5


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_video_keeps_its_rate_and_frames(suffix: str, run, tmp_path: Path) -> None:
    video = write_video(tmp_path / f"clip{suffix}", 7)
    words = ["--input", video, "--output", tmp_path / "out", "--json", tmp_path / "x.json", "--batch-size", "3"]
    assert run("detr_R_18", *words, "--threshold", "1") == 0
    assert names(tmp_path / "out") == [f"clip{suffix}"]
    rate, frames = read_video(tmp_path / "out" / f"clip{suffix}")
    _, before = read_video(video)
    assert rate == pytest.approx(12.5, abs=0.01)
    assert len(frames) == 7
    assert {frame.shape for frame in frames} == {(48, 64, 3)}
    distances = [[np.abs(frame.astype(int) - other).mean() for other in before] for frame in frames]
    assert np.argmin(distances, axis=1).tolist() == list(range(7))  # in their order
    described = json.loads((tmp_path / "x_images.json").read_text())["images"]
    assert [image["frame"] for image in described] == list(range(7))
    assert json.loads((tmp_path / "x.json").read_text()) == []


def test_what_cannot_be_read_is_skipped_and_named(run, images, tmp_path: Path, capsys) -> None:
    (tmp_path / "bad.jpg").write_text("no image")
    (tmp_path / "bad.mp4").write_text("no video")
    whole = write_video(tmp_path / "whole.avi", 30)
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    inputs = [images[0], *(tmp_path / name for name in ("bad.jpg", "bad.mp4", "cut.avi", "none.png")), images[1]]
    words = ["--output", tmp_path / "out", "--json", tmp_path / "x.json", "--panoptic-json", tmp_path / "p.json"]
    assert run("panoptic_detr_R_18", "--input", *inputs, *words, "--batch-size", "4") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("demo.py: ")]
    assert len(told) == 4
    for name in ("bad.jpg", "bad.mp4", "cut.avi", "none.png"):
        assert sum(name in line for line in told) == 1
    expected = [path.name for path in images[:2]]
    assert names(tmp_path / "out") == names(tmp_path / "p") == expected
    described = json.loads((tmp_path / "x_images.json").read_text())["images"]
    assert [Path(image["file_name"]).name for image in described] == expected
    assert len(json.loads((tmp_path / "p.json").read_text())["annotations"]) == 2


def test_an_error_on_the_way_leaves_nothing_half_written(run, tmp_path: Path, monkeypatch, capsys) -> None:
    video = write_video(tmp_path / "clip.mp4", 6)
    before = names(tmp_path)
    monkeypatch.setattr(outputs.VideoWriter, "close", lambda self: (_ for _ in ()).throw(OSError("disk full")))
    words = ["--output", tmp_path / "o.mp4", "--json", tmp_path / "x.json", "--panoptic-json", tmp_path / "p.json"]
    assert run("panoptic_detr_R_18", "--input", video, *words) == 1
    assert f"demo.py: skipped: {video}: disk full" in capsys.readouterr().err
    assert names(tmp_path) == before


def test_a_video_is_never_in_memory_as_a_whole(run, tmp_path: Path, monkeypatch) -> None:
    video = write_video(tmp_path / "clip.mp4", 9)
    in_memory, most = 0, 0
    read, write = Demo._frame, outputs.VideoWriter.write

    def counted(self, *arguments):
        nonlocal in_memory, most
        in_memory += 1
        most = max(most, in_memory)
        return read(self, *arguments)

    def done(self, picture):
        nonlocal in_memory
        in_memory -= 1
        write(self, picture)

    monkeypatch.setattr(Demo, "_frame", counted)
    monkeypatch.setattr(outputs.VideoWriter, "write", done)
    words = ["--output", tmp_path / "o.mp4", "--json", tmp_path / "x.json", "--threshold", "0", "--batch-size", "2"]
    assert run("detr_R_18", "--input", video, *words) == 0
    assert (in_memory, most) == (0, 2)
    results = json.loads((tmp_path / "x.json").read_text())
    assert sorted({result["image_id"] for result in results}) == list(range(1, 10))


def test_names_that_are_not_utf8_or_as_long_as_names_may_be(run, images, tmp_path: Path) -> None:
    """OpenCV ends the process where it is given the first kind; the second leaves no letter for a partial file."""
    latin, longest = os.fsdecode(b"caf\xe9"), "l" * 251
    inputs = [tmp_path / latin / f"{latin}.png", tmp_path / latin / f"{longest}.png"]
    inputs[0].parent.mkdir()
    for path in inputs:
        path.write_bytes(images[0].read_bytes())
    inputs.append(write_video(tmp_path / "clip.mp4", 3).rename(inputs[0].with_suffix(".mp4")))
    words = ["--json", tmp_path / latin / f"{latin}.json", "--panoptic-json", tmp_path / "p.json", "--batch-size", "2"]
    assert run("panoptic_detr_R_18", "--input", *inputs, "--output", tmp_path / latin / "o", *words) == 0
    assert names(tmp_path / latin / "o") == sorted([f"{latin}.png", f"{longest}.png", f"{latin}_2.mp4"])
    assert len(read_video_of(tmp_path / latin / "o" / f"{latin}_2.mp4", tmp_path)) == 3
    assert len(json.loads((tmp_path / latin / f"{latin}_images.json").read_text())["images"]) == 5
    assert len(names(tmp_path / "p")) == 5


def read_video_of(path: Path, folder: Path) -> list[np.ndarray]:
    """The frames of a video whose name OpenCV does not take."""
    return read_video(path.rename(folder / "renamed.mp4"))[1]


def test_one_input_that_cannot_be_written_or_predicted_loses_nothing_of_the_others(
    run, images, tmp_path: Path, monkeypatch, capsys
) -> None:
    paths = [tmp_path / f"{name}.png" for name in ("a", "b", "huge", "w" * 251, "c")]
    for path in paths:
        path.write_bytes(images[0].read_bytes())
    cv2.imwrite(str(paths[2]), np.zeros((300, 40, 3), np.uint8))
    video = write_video(tmp_path / f"{'v' * 251}.mp4", 3)  # the names of its frames are too long
    predict = Predictor.__call__

    def small_only(self, images: list[np.ndarray]) -> list[dict]:
        if any(len(image) == 300 for image in images):
            raise torch.OutOfMemoryError("no memory\nfor this")
        return predict(self, images)

    monkeypatch.setattr(Predictor, "__call__", small_only)
    words = ["--json", tmp_path / "x.json", "--panoptic-json", tmp_path / "p.json", "--output", tmp_path / "o"]
    assert run("panoptic_detr_R_18", "--input", *paths, video, *words, "--batch-size", "3") == 1
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("demo.py: ")]
    assert len(told) == 2
    assert "huge.png: no prediction (OutOfMemoryError: no memory for this)" in told[0]
    assert video.name in told[1]
    assert "too long" in told[1]
    left = ["a.png", "b.png", "c.png", paths[3].name]
    assert names(tmp_path / "p") == names(tmp_path / "o") == left
    images_left = json.loads((tmp_path / "p_images.json").read_text())["images"]
    assert sorted(Path(image["file_name"]).name for image in images_left) == left
    assert json.loads((tmp_path / "x_images.json").read_text())["images"] == images_left
    assert sorted(a["file_name"] for a in json.loads((tmp_path / "p.json").read_text())["annotations"]) == left
    assert isinstance(json.loads((tmp_path / "x.json").read_text()), list)


def test_inputs_of_one_name_have_files_of_their_own(run, images, tmp_path: Path) -> None:
    for path, image in zip(("a/x.png", "b/x.png", "b/x_2.png"), images, strict=True):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(image.read_bytes())
    words = ["--input", tmp_path / "a", tmp_path / "b", "--output", tmp_path / "o", "--panoptic-json"]
    assert run("panoptic_detr_R_18", *words, tmp_path / "p.json") == 0
    expected = ["x.png", "x_2.png", "x_2_2.png"]
    assert names(tmp_path / "o") == names(tmp_path / "p") == expected
    for name, image in zip(expected, images, strict=True):
        assert cv2.imread(str(tmp_path / "o" / name)).shape == cv2.imread(str(image)).shape
        assert read_ids(tmp_path / "p" / name).shape == cv2.imread(str(image)).shape[:2]


@pytest.fixture
def window(monkeypatch) -> dict[str, list]:
    """A screen: what was shown, and the keys that the user presses."""
    screen: dict[str, list] = {"shown": [], "keys": []}
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "destroyWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, picture: screen["shown"].append(picture))
    monkeypatch.setattr(cv2, "waitKey", lambda _: screen["keys"].pop(0) if screen["keys"] else -1)
    return screen


def test_a_camera_until_the_user_ends_it(run, tmp_path: Path, monkeypatch, window) -> None:
    video, capture = write_video(tmp_path / "camera.mp4", 9), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda place, *more: capture(str(video) if place == 3 else place, *more))
    window["keys"] += [-1, -1, -1, ord("q")]
    assert run("detr_R_18", "--webcam", "3", "--window", "--output", tmp_path / "out") == 0
    assert len(window["shown"]) == 4
    assert len(read_video(tmp_path / "out" / "webcam3.mp4")[1]) == 4


def test_ctrl_c_ends_a_camera_and_keeps_what_was_seen(run, tmp_path: Path, monkeypatch, window) -> None:
    video, capture = write_video(tmp_path / "camera.mp4", 9), cv2.VideoCapture
    monkeypatch.setattr(cv2, "VideoCapture", lambda place, *more: capture(str(video) if place == 0 else place, *more))

    def wait(_: int) -> int:
        if len(window["shown"]) == 3:
            raise KeyboardInterrupt
        return -1

    monkeypatch.setattr(cv2, "waitKey", wait)
    assert run("detr_R_18", "--webcam", "0", "--output", tmp_path / "o.mp4", "--window") == 0
    assert len(read_video(tmp_path / "o.mp4")[1]) == 3


def test_closing_the_window_before_the_end_is_not_success(run, images, window) -> None:
    window["keys"] += [ord(" "), 27]
    assert run("detr_R_18", "--input", *images, "--window") == 1
    assert len(window["shown"]) == 2


def test_mixed_precision_and_a_config_with_weights(tool, checkpoint, repo: Path, images, tmp_path: Path) -> None:
    words = ["--config-file", str(repo / "configs/Shapes/faster_rcnn_R_18.yaml"), "--weights"]
    words += [str(checkpoint("faster_rcnn_R_18")), "--device", "cpu", "--amp", "--json", str(tmp_path / "x.json")]
    assert tool.main([*words, "--threshold", "0.05", "--input", str(images[0])]) == 0
    assert len(json.loads((tmp_path / "x.json").read_text())) > 0


def test_help_names_every_option(tool: ModuleType, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        tool.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for option in ("--input", "--webcam", "--output", "--window", "--json", "--panoptic-json", "--show"):
        assert option in text


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def rank(tool: ModuleType, words: list[str], environ: dict[str, str], log: Path, killed: bool) -> None:
    """One process of a group; it writes down what it predicts, and its errors."""
    torch.set_num_threads(1)
    os.environ.update(environ)
    predict = Demo._predict

    def noted(demo: Demo, frames: list) -> list:
        if killed:
            os.kill(os.getpid(), signal.SIGKILL)
        log.open("a").write("".join(f"{frame.source.name}\n" for frame in frames))
        return predict(demo, frames)

    Demo._predict = noted
    with log.with_suffix(".err").open("w", buffering=1) as sys.stderr:
        status = tool.main(words)
    log.open("a").write(f"status {status}\n")


@pytest.fixture
def run_two(tool, checkpoint, tmp_path: Path) -> Callable[..., tuple[list[str], str]]:
    """``run_two("detr_R_18", "--input", ..., killed=False)`` -> what two processes wrote down, and the errors of the
    first; ``killed``: the second one dies at its first prediction."""

    def run(name: str, *words: str, killed: bool = False) -> tuple[list[str], str]:
        with socket.create_server(("127.0.0.1", 0)) as server:
            group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(server.getsockname()[1])}
        fork, logs = multiprocessing.get_context("fork"), [tmp_path / f"rank{number}" for number in range(2)]
        processes = []
        for number, log in enumerate(logs):
            log.write_text("")
            environ = group | {"RANK": str(number), "LOCAL_RANK": str(number)}
            words_of_rank = ["--weights", str(checkpoint(name)), *map(str, words)]
            arguments = (tool, words_of_rank, environ, log, killed and number == 1)
            processes.append(fork.Process(target=rank, args=arguments))
            processes[-1].start()
        for process in processes:
            process.join(90)
            process.kill()
        return [log.read_text() for log in logs], logs[0].with_suffix(".err").read_text()

    return run


def test_two_processes_give_the_files_of_one_and_go_on_after_a_kill(run, run_two, images, tmp_path: Path) -> None:
    def words(folder: str) -> list:
        out = tmp_path / folder
        files = ["--json", out / "boxes.json", "--panoptic-json", out / "segments.json"]
        return ["--input", *images, "--output", out / "drawn", *files, "--threshold", "0"]

    assert run("panoptic_detr_R_18", *words("one")) == 0
    expected = files_of(tmp_path / "one")
    assert len(expected) == 4 + 3 + 3

    (first, second), errors = run_two("panoptic_detr_R_18", *words("two"), killed=True)
    assert first == f"{images[0].stem}\n{images[2].stem}\nstatus 1\n"
    assert second == ""
    assert errors.splitlines()[-1].startswith("demo.py: Another process of the job was killed")
    assert "Start the same command again" in errors
    assert not (tmp_path / "two" / "boxes.json").exists()

    (first, second), _ = run_two("panoptic_detr_R_18", *words("two"))
    assert (first, second) == ("status 0\n", f"{images[1].stem}\nstatus 0\n")
    assert files_of(tmp_path / "two") == expected


def test_parts_of_another_job_are_not_taken(run_two, images, tmp_path: Path) -> None:
    words = ["--input", *images, "--json", tmp_path / "boxes.json"]
    run_two("detr_R_18", *words, killed=True)
    assert (tmp_path / ".boxes.json.parts").exists()
    (first, _), _ = run_two("detr_R_18", *words, "--threshold", "0.1")
    assert first == f"{images[0].stem}\n{images[2].stem}\nstatus 0\n"
    assert not (tmp_path / ".boxes.json.parts").exists()


def test_what_one_of_two_processes_cannot_read_is_skipped(run_two, images, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no image")
    words = ["--input", tmp_path / "bad.png", *images[:2], "--json", tmp_path / "boxes.json"]
    (first, second), errors = run_two("detr_R_18", *words)
    assert (first, second) == (f"{images[1].stem}\nstatus 1\n", f"{images[0].stem}\nstatus 1\n")
    assert "skipped: " in errors
    assert [image["id"] for image in json.loads((tmp_path / "boxes_images.json").read_text())["images"]] == [1, 2]
