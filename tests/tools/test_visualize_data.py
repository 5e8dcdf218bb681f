"""tools/visualize_data.py with the mappers of the Shapes configs."""

import json
from pathlib import Path
from types import ModuleType

import cv2
import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "Shapes"
YAMLS = sorted(path.stem for path in CONFIGS.glob("*.yaml") if not path.name.startswith("Base-"))


@pytest.fixture(scope="module")
def tool(load_tool) -> ModuleType:
    return load_tool("visualize_data")


@pytest.fixture
def draw(tool: ModuleType, shapes_root: Path, tmp_path: Path):
    """Draw into ``tmp_path`` and give the sheet, or the folder's pictures by name."""

    def draw(config: str, *words: str, output: str = "sheet.png") -> np.ndarray | dict[str, np.ndarray]:
        path = tmp_path / output
        argv = ["--config-file", str(CONFIGS / f"{config}.yaml"), "--output", str(path), "--height", "90", *words]
        assert tool.main(argv) == 0
        if path.is_dir():
            return {file.name: cv2.imread(str(file)) for file in sorted(path.iterdir())}
        return cv2.imread(str(path))

    return draw


@pytest.mark.parametrize("config", YAMLS)
def test_every_mapper(draw, config: str) -> None:
    seen = draw(config, "--num", "2")
    assert seen.shape[0] > 90
    plain = draw(config, "--num", "2", "--test")
    assert seen.std() > 10
    assert plain.std() > 10
    assert not np.array_equal(seen, plain)


def test_a_seed_gives_the_same_pictures(draw) -> None:
    words = ["--num", "3", "--repeat", "2", "INPUT.CROP.ENABLED", "True", "INPUT.MIN_SIZE_TRAIN_CROP", "(60, 80)"]
    first = draw("detr_R_18", *words)
    assert np.array_equal(first, draw("detr_R_18", *words))
    assert not np.array_equal(first, draw("detr_R_18", *words, "--seed", "1"))


def test_one_file_an_image(draw, tmp_path: Path) -> None:
    (tmp_path / "seen").mkdir()
    (tmp_path / "seen" / "mine.png").write_bytes(b"")
    pictures = draw("detr_R_18", "--num", "2", "--repeat", "3", output="seen")
    assert pictures.pop("mine.png") is None
    names = [name.rsplit("_", 1)[0] for name in pictures]
    assert [names.count(name) for name in sorted(set(names))] == [3, 3]
    assert all(picture.std() > 10 for picture in pictures.values())
    repeats = [picture.tobytes() for picture in pictures.values()]
    assert len(set(repeats)) > 2, "augmentation never differs"
    assert [path.name for path in tmp_path.iterdir()] == ["seen"]


def test_unreadable_images_are_left_out_as_in_training(draw, shapes_root: Path, tmp_path: Path, capsys) -> None:
    content = json.loads((shapes_root / "shapes" / "annotations" / "instances_train.json").read_text())
    content["images"] = content["images"][:2]
    ids = {image["id"] for image in content["images"]}
    content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
    (tmp_path / "images").mkdir()
    for image, good in zip(content["images"], (True, False), strict=True):
        data = (shapes_root / "shapes" / "train" / image["file_name"]).read_bytes()
        (tmp_path / "images" / image["file_name"]).write_bytes(data if good else data[:50])
    (tmp_path / "images.json").write_text(json.dumps(content))
    register_coco_instances("half_readable", {}, str(tmp_path / "images.json"), str(tmp_path / "images"))
    try:
        sheet = draw("detr_R_18", "--dataset", "half_readable", "INPUT.SKIP_UNREADABLE_IMAGES", "True")
    finally:
        DatasetCatalog.remove("half_readable")
        MetadataCatalog.remove("half_readable")
    assert sheet[45:].std() > 10
    assert "1 of 2 images cannot be read" in capsys.readouterr().err
