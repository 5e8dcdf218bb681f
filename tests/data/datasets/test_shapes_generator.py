"""The Shapes generator: reproducible, consistent between its formats, never half-written."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pycocotools.mask as mask_util
import pytest
from PIL import Image
from pycocotools.coco import COCO

from detr_d2.data.datasets import shapes_generator
from detr_d2.data.datasets.shapes_generator import STUFF, THINGS, generate_shapes, split_paths

REPO = Path(__file__).parents[3]
COUNT = 150


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("datasets")
    generate_shapes(root, split="train", num_images=COUNT, seed=3)
    return root


def _hashes(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _load(root: Path, split: str, part: str) -> dict:
    return json.loads(split_paths(root, split)[part].read_text())


def _read(root: Path, split: str, part: str, name: str) -> np.ndarray:
    return np.asarray(Image.open(split_paths(root, split)[part] / name))


def _panoptic_ids(root: Path, split: str, name: str) -> np.ndarray:
    red, green, blue = np.moveaxis(_read(root, split, "panoptic", name).astype(np.int64), -1, 0)
    return red + 256 * green + 256**2 * blue


def test_same_seed_same_bytes_and_another_seed_other_images(tmp_path: Path) -> None:
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        for split in ("train", "val"):
            generate_shapes(tmp_path / folder, split=split, num_images=6, seed=seed)
    first, second, third = (_hashes(tmp_path / folder) for folder in "abc")
    assert len(first) >= 2 * (3 * 6 + 3)
    assert first == second
    images = [name for name in first if Path(name).parent.name in ("train", "val")]
    assert not {first[name] for name in images} & {third[name] for name in images}
    assert len({first[name] for name in images}) == 12  # train and val share none


def test_an_image_does_not_depend_on_how_many_there_are(root: Path, tmp_path: Path) -> None:
    generate_shapes(tmp_path, split="train", num_images=4, seed=3)
    few, many = _hashes(tmp_path), _hashes(root)
    images = [name for name in few if name.endswith(".png")]
    assert len(images) == 12
    assert all(few[name] == many[name] for name in images)
    few_annotations = _load(tmp_path, "train", "instances_json")["annotations"]
    assert few_annotations == _load(root, "train", "instances_json")["annotations"][: len(few_annotations)]


def test_formats_agree_pixel_by_pixel(root: Path) -> None:
    panoptic = _load(root, "train", "panoptic_json")
    instances = COCO(str(split_paths(root, "train")["instances_json"]))
    void_pixels = 0
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert image["id"] == annotation["image_id"]
        name = annotation["file_name"]
        ids, sem_seg = _panoptic_ids(root, "train", name), _read(root, "train", "sem_seg", name)
        assert _read(root, "train", "images", name).shape == (image["height"], image["width"], 3)
        assert ids.shape == sem_seg.shape == (image["height"], image["width"])
        assert set(np.unique(ids)) - {0} == {segment["id"] for segment in annotation["segments_info"]}
        expected_sem_seg = np.full(ids.shape, 255)
        expected_masks = []
        for segment in annotation["segments_info"]:
            mask = ids == segment["id"]
            x, y, w, h = segment["bbox"]
            rows, columns = np.nonzero(mask)
            assert (x, y, x + w - 1, y + h - 1) == (columns.min(), rows.min(), columns.max(), rows.max())
            assert segment["area"] == mask.sum()
            category = segment["category_id"]
            expected_sem_seg[mask] = 0 if category in THINGS else 1 + sorted(STUFF).index(category)
            if category in THINGS:
                expected_masks.append((category, segment["bbox"], mask))
        np.testing.assert_array_equal(sem_seg, expected_sem_seg)
        void_pixels += int((ids == 0).sum())
        annotations = instances.loadAnns(instances.getAnnIds(image["id"]))
        assert len(annotations) == len(expected_masks)
        for found, (category, box, mask) in zip(annotations, expected_masks, strict=True):
            assert found["category_id"] == category
            assert found["bbox"] == box
            assert all(isinstance(x, float) for x in found["bbox"])
            assert found["area"] == mask.sum() >= 60
            np.testing.assert_array_equal(mask_util.decode(found["segmentation"]), mask)
    assert void_pixels > 0


def test_contents(root: Path) -> None:
    """Every class occurs, some images are empty, things overlap and are cut, sizes are what is promised."""
    panoptic, instances = _load(root, "train", "panoptic_json"), _load(root, "train", "instances_json")
    assert {c["id"] for c in instances["categories"]} == set(THINGS)
    assert {c["id"]: c["isthing"] for c in panoptic["categories"]} == {
        **dict.fromkeys(THINGS, 1),
        **dict.fromkeys(STUFF, 0),
    }
    segments = [segment for annotation in panoptic["annotations"] for segment in annotation["segments_info"]]
    assert {segment["category_id"] for segment in segments} == {*THINGS, *STUFF}
    per_image = np.bincount([a["image_id"] - 1 for a in instances["annotations"]], minlength=COUNT)
    assert set(per_image) == set(range(6))
    assert 1 <= (per_image == 0).sum() <= 0.1 * COUNT
    sides = {side for image in instances["images"] for side in (image["height"], image["width"])}
    assert min(sides) >= 80
    assert max(sides) <= 112
    assert len(sides) > 10
    assert len({a["id"] for a in instances["annotations"]}) == len(instances["annotations"])
    assert min(a["id"] for a in instances["annotations"]) == 1  # pycocotools takes a matched id of 0 for unmatched
    boxes = np.array([a["bbox"] for a in instances["annotations"]])
    x, y, w, h = boxes.T
    assert 48 < max(w.max(), h.max()) <= 48 * 1.4 + 2  # a star reaches farther than a circle
    assert ((x == 0) | (y == 0)).any()
    overlaps = mask_util.iou(list(boxes[:200]), list(boxes[:200]), [0] * 200)
    same_image = np.equal.outer(*[[a["image_id"] for a in instances["annotations"][:200]]] * 2)
    assert (overlaps[np.triu(same_image, 1)] > 0).any()


def test_color_does_not_tell_the_class(root: Path) -> None:
    """The mean colours of the classes are alike: their spread is that of means of random colours."""
    colors: dict[int, list[np.ndarray]] = {category: [] for category in THINGS}
    for annotation in _load(root, "train", "instances_json")["annotations"]:
        image = _read(root, "train", "images", f"{annotation['image_id']:06d}.png")
        mask = mask_util.decode(annotation["segmentation"]).astype(bool)
        colors[annotation["category_id"]].append(image[mask].mean(0))
    means = np.array([np.mean(c, axis=0) for c in colors.values()])
    standard_error = max(np.std(c, axis=0).max() / np.sqrt(len(c)) for c in colors.values())
    assert min(np.std(c, axis=0).min() for c in colors.values()) > 30
    assert np.abs(means - means.mean(0)).max() < 4 * standard_error


def test_complete_split_is_kept_and_another_one_replaced_only_when_asked(tmp_path: Path) -> None:
    generate_shapes(tmp_path, split="val", num_images=3)
    image = split_paths(tmp_path, "val")["images"] / "000001.png"
    before, stamp = _hashes(tmp_path), image.stat().st_mtime_ns
    generate_shapes(tmp_path, split="val", num_images=3)
    assert image.stat().st_mtime_ns == stamp
    with pytest.raises(FileExistsError, match=r"num_images 3 \(asked for: 2\)"):
        generate_shapes(tmp_path, split="val", num_images=2)
    with pytest.raises(FileExistsError, match=r"seed 0 \(asked for: 1\)"):
        generate_shapes(tmp_path, split="val", num_images=3, seed=1)
    assert _hashes(tmp_path) == before
    generate_shapes(tmp_path, split="val", num_images=2, overwrite=True)
    assert len(list(image.parent.iterdir())) == 2
    assert len(_load(tmp_path, "val", "instances_json")["images"]) == 2


def test_failure_while_drawing_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_shapes(tmp_path, split="val", num_images=3)
    before = _hashes(tmp_path)
    calls = []

    def fail_at_third(*args: object) -> shapes_generator.Scene:
        calls.append(args)
        if len(calls) == 3:
            raise OSError("disk full")
        return draw_scene(*args)

    draw_scene = shapes_generator.draw_scene
    monkeypatch.setattr(shapes_generator, "draw_scene", fail_at_third)
    with pytest.raises(OSError, match="disk full"):
        generate_shapes(tmp_path, split="val", num_images=5, overwrite=True)
    assert len(calls) == 3
    assert _hashes(tmp_path) == before


def test_killed_while_drawing_is_started_anew(tmp_path: Path) -> None:
    script = (
        "import os, signal\n"
        "from detr_d2.data.datasets import shapes_generator as g\n"
        "draw = g.draw_scene; calls = []\n"
        "def kill(*a):\n"
        "    calls.append(0)\n"
        "    if len(calls) == 3: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return draw(*a)\n"
        "g.draw_scene = kill\n"
        f"g.generate_shapes({str(tmp_path / 'killed')!r}, split='val', num_images=5)\n"
    )
    result = subprocess.run([sys.executable, "-c", script], cwd=REPO, capture_output=True, timeout=60)
    assert result.returncode == -9, result.stderr
    assert list((tmp_path / "killed").rglob("000002.png"))
    assert not split_paths(tmp_path / "killed", "val")["images"].exists()
    for folder in ("killed", "whole"):
        generate_shapes(tmp_path / folder, split="val", num_images=5)
    assert _hashes(tmp_path / "killed") == _hashes(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["parameters", "instances_json", "sem_seg"])
def test_incomplete_split_is_an_error_until_overwritten(tmp_path: Path, lost: str) -> None:
    generate_shapes(tmp_path, split="val", num_images=2)
    before = _hashes(tmp_path)
    path = split_paths(tmp_path, "val")[lost]
    path.rename(tmp_path / "lost")
    with pytest.raises(FileExistsError, match=f"{path.name} is not: an interrupted generation"):
        generate_shapes(tmp_path, split="val", num_images=2)
    generate_shapes(tmp_path, split="val", num_images=2, overwrite=True)
    assert {k: v for k, v in _hashes(tmp_path).items() if not k.startswith("lost")} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"split": "test", "num_images": 1}, "split: expected one of train, val, got 'test'"),
        ({"split": "val", "num_images": 0}, "num_images: expected 1 or more, got 0"),
        ({"split": "val", "num_images": 1, "seed": -1}, "seed: expected 0 <= seed"),
        ({"split": "val", "num_images": 1, "seed": 2**32}, "seed: expected 0 <= seed"),
    ],
)
def test_arguments_out_of_range(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate_shapes(tmp_path, **arguments)
    assert not list(tmp_path.iterdir())
