"""Errors of panoptic segments: hand-made cases, and PQ against hotcoco's on random maps with void and crowds."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hotcoco.panoptic import pq_compute

from detr_d2.analysis.segments import SegmentErrors, find_segment_errors, lost_quality, repaired_quality
from detr_d2.structures import encode_ids

CATEGORIES = [{"id": i, "name": f"class {i}", "isthing": int(i < 30)} for i in (3, 8, 40)]


def write(folder: Path, maps: list[np.ndarray], segments: list[list[tuple]]) -> dict:
    """A panoptic JSON with its PNGs; segments are (id, category) or (id, category, True) for crowds."""
    folder.mkdir()
    annotations = []
    for i, (ids, of) in enumerate(zip(maps, segments, strict=True), start=1):
        (folder / f"{i}.png").write_bytes(encode_ids(ids))
        infos = [
            {
                "id": s,
                "category_id": c,
                "iscrowd": int(any(crowd)),
                "area": int((ids == s).sum()),
                "bbox": [0, 0, 1, 1],
            }
            for s, c, *crowd in of
        ]
        annotations.append({"image_id": i, "file_name": f"{i}.png", "segments_info": infos})
    images = [{"id": i + 1, "height": m.shape[0], "width": m.shape[1], "file_name": ""} for i, m in enumerate(maps)]
    content = {"images": images, "annotations": annotations, "categories": CATEGORIES}
    folder.with_suffix(".json").write_text(json.dumps(content))
    return content


def analyse(folder: Path, truth: tuple[list, list], said: tuple[list, list]) -> SegmentErrors:
    a, b = write(folder / "truth", *truth), write(folder / "said", *said)
    return find_segment_errors(a, folder / "truth", b, folder / "said")


def scene() -> np.ndarray:
    ids = np.full((10, 10), 300)
    ids[:3], ids[7:] = 1, 2
    return ids


TRUE = [(1, 3), (2, 8), (300, 40)]


def test_each_kind(tmp_path):
    """Three segments: one of another class, one smaller than it should be, and a part of it a false one."""
    said = scene()
    said[2] = 7  # of class 8; segment 1 keeps 20 of 30 pixels
    errors = analyse(tmp_path, ([scene()], [TRUE]), ([said], [[(1, 3), (2, 3), (300, 40), (7, 8)]]))
    assert errors.counts() == {"classification": 1, "missed": 0, "background": 1}
    # class 3: a pair of IoU 2/3 and a false segment; class 8: a miss and a false segment; class 40 is right
    base, lost = lost_quality(errors)
    assert base == pytest.approx(100 * ((2 / 3) / 1.5 + 0 + 1) / 3)
    assert lost["classification"] == pytest.approx(100 * (2 / 3 + 1 / 1.5 + 1) / 3 - base)
    assert lost["segmentation"] == pytest.approx(100 * (1 / 1.5 + 0 + 1) / 3 - base)
    assert lost["background"] == pytest.approx(0)  # class 8 stays without a pair
    assert lost["missed"] == 0
    assert repaired_quality(errors, tuple(lost)) == pytest.approx(100)


def test_a_missed_segment(tmp_path):
    said = scene()
    said[said == 1] = 0
    errors = analyse(tmp_path, ([scene()], [TRUE]), ([said], [TRUE[1:]]))
    assert errors.counts() == {"classification": 0, "missed": 1, "background": 0}
    base, lost = lost_quality(errors)
    assert base == pytest.approx(200 / 3)
    assert lost == {"classification": 0, "segmentation": 0, "missed": pytest.approx(100 / 3), "background": 0}


@pytest.mark.parametrize("seed", range(4))
def test_quality_is_hotcocos(tmp_path, seed):
    """Blocks of segments, void, a crowd in each image; predictions are moved and their classes sometimes wrong."""
    generator = np.random.default_rng(seed)
    maps, segments, moved, said = [], [], [], []
    for _ in range(6):
        ids = np.kron(generator.choice([0, 5, 6, 70000, 8, 9], (4, 4)), np.ones((8, 8), dtype=int))
        of = [(int(i), int(generator.choice([3, 8, 40])), i == 9) for i in np.unique(ids) if i]
        shifted = np.roll(ids, generator.integers(0, 3), axis=1)
        maps.append(ids)
        segments.append(of)
        moved.append(shifted)
        said.append([(i, c if generator.random() < 0.8 else 8) for i, c, _ in of])
    errors = analyse(tmp_path, (maps, segments), (moved, said))
    with contextlib.redirect_stdout(io.StringIO()):
        expected = pq_compute(
            *(str(tmp_path / "truth.json"), str(tmp_path / "said.json")),
            gt_folder=str(tmp_path / "truth"),
            pred_folder=str(tmp_path / "said"),
        )
    base, lost = lost_quality(errors)
    assert base == pytest.approx(100 * expected["All"]["pq"])
    assert 5 < base < 95
    assert min(lost.values()) >= 0
    assert repaired_quality(errors, tuple(lost)) == pytest.approx(100)


def test_files_that_disagree_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"said/1\.png holds the segment 300, which its JSON does not list"):
        analyse(tmp_path, ([scene()], [TRUE]), ([scene()], [TRUE[:2]]))


def test_predictions_of_other_images(tmp_path):
    a = write(tmp_path / "truth", [scene()], [TRUE])
    annotation = a["annotations"][0]
    for annotations, message in (([annotation | {"image_id": 5}], "image 5"), ([], "no predictions of 1")):
        with pytest.raises(ValueError, match=message):
            find_segment_errors(a, tmp_path / "truth", {"annotations": annotations}, tmp_path / "truth")
    strange = annotation | {"segments_info": [{"id": 1, "category_id": 99}]}
    with pytest.raises(ValueError, match="unknown"):
        find_segment_errors(a, tmp_path / "truth", {"annotations": [strange]}, tmp_path / "truth")
