"""tools/run_onnx.py reads and resizes images as the package does."""

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from detr_d2.data.image_files import read_image


@pytest.fixture
def tool(load_tool):
    return load_tool("run_onnx")


@pytest.mark.parametrize(
    ("pixels", "suffix"),
    [
        (np.linspace(0, 65535, 256).reshape(8, 32).astype(np.uint16), "png"),
        (np.linspace(0, 65535, 256).reshape(8, 32).astype(np.uint16), "tiff"),
        (np.linspace(0, 1, 256).reshape(8, 32).astype(np.float32), "tiff"),
        (np.arange(256).reshape(8, 32).astype(np.uint8), "png"),
    ],
    ids=["16 bit png", "16 bit tiff", "floats", "8 bit"],
)
def test_a_ramp_stays_a_ramp(tool, tmp_path, pixels, suffix):
    path = tmp_path / f"ramp.{suffix}"
    Image.fromarray(pixels).save(path)
    read = np.asarray(tool.read_image(str(path)))
    np.testing.assert_array_equal(read, read_image(path, "RGB"))
    assert read.mean() == pytest.approx(127.5, abs=0.5)


def test_pixels_of_unknown_range_are_refused_by_name(tool, tmp_path):
    Image.fromarray(np.full((4, 4), 300, np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(ValueError, match=r"float.tiff: what is white in its mode 'F' is not known"):
        tool.read_image(str(tmp_path / "float.tiff"))


def test_thin_images(tool):
    detector = tool.Detector.__new__(tool.Detector)
    detector.facts = {"height": 0, "min_size": 96, "max_size": 160, "channel_order": "BGR", "size_multiple": 1}
    for width, height in ((1, 5000), (900, 2)):
        batch, size = detector.prepare(Image.new("RGB", (width, height)))
        assert (batch.shape[2:] == size[0]).all()
        assert sorted(size[0]) == [1, 160]


def test_models_of_squares_see_squares_whatever_the_shape(tool):
    detector = tool.Detector.__new__(tool.Detector)
    facts = {"min_size": 96, "max_size": 160, "channel_order": "RGB", "size_multiple": 32}
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), np.uint8))
    expected = np.asarray(image.resize((48, 48), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    for side in (0, 64):  # free, and of one size
        detector.facts = facts | {"height": side, "width": side, "squash": [48, 48]}
        batch, size = detector.prepare(image)
        assert (batch.shape, size.tolist()) == ((1, 3, 64, 64), [[48, 48]])
        np.testing.assert_array_equal(batch[0, :, :48, :48], expected)


MANY = """
import importlib.util, sys
import numpy as np

spec = importlib.util.spec_from_file_location("run_onnx", sys.argv[1])
tool = importlib.util.module_from_spec(spec)
spec.loader.exec_module(tool)

class Detector:
    facts = {"class_names": [chr(0x732b)]}
    def __init__(self, path): pass
    def __call__(self, image, threshold):
        return tool.Detections(np.zeros((20000, 4)), np.ones(20000), np.zeros(20000, int), None)

tool.Detector = Detector
sys.exit(tool.main(["model.onnx", sys.argv[2]]))
"""


def test_a_terminal_of_few_letters_and_a_reader_that_goes(repo, tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "image.png")
    words = [sys.executable, "-c", MANY, str(repo / "detr_d2" / "cli" / "run_onnx.py"), str(tmp_path / "image.png")]
    script = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "PYTHONIOENCODING": "ascii"}
    )
    assert script.stdout.readline() == b"\\u732b 1.000 0.0 0.0 0.0 0.0\n"
    script.stdout.close()
    assert script.stderr.read() == b""
    assert script.wait() == 141
    script.stderr.close()


def test_what_is_no_file_is_not_waited_for(tool, tmp_path, capsys):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    for model in ("pipe", "none.onnx", "broken.onnx"):
        assert tool.main([str(tmp_path / model), "image.png"]) == 1
        assert model in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="pipe is no file"):
        tool.read_image(str(tmp_path / "pipe"))
