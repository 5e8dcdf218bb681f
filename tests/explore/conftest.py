"""A dataset whose names are hostile, and two models' results on it, made from its ground truth."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detr_d2.analysis.scenes import to_rle

HOSTILE = "</script><script>document.title='broken'</script>"
CLASSES = ["plain", HOSTILE, "<img src=x onerror=document.title='broken'>"]
Dataset = tuple[dict[str, Any], dict[str, list[dict[str, Any]]]]


def square_mask(x: int, y: int, w: int, h: int) -> list[list[int]]:
    return [[x, y, x + w, y, x + w, y + h, x, y + h]]


@pytest.fixture(scope="session")
def dataset() -> Dataset:
    """Twelve images of 64 x 48 with three objects each; results with every kind of error."""
    rng = np.random.default_rng(0)
    images = [
        {"id": 10 + i, "file_name": f"{i}.png" if i else "<b>&0'\".png", "width": 64, "height": 48} for i in range(12)
    ]
    annotations, good, bad = [], [], []
    for image in images:
        for place in range(3):
            box = [int(2 + 20 * place + rng.integers(3)), int(rng.integers(4, 20)), 14, 14]
            label = 1 + int(rng.integers(3))
            crowd = int(image["id"] == 15 and place == 0)
            shape = {"bbox": box, "segmentation": square_mask(*box)}
            about = {"id": len(annotations) + 1, "image_id": image["id"], "category_id": label, "iscrowd": crowd}
            annotations.append({**about, **shape, "area": 196})
            for results, errors in ((good, 0.15), (bad, 0.6)):
                wrong, box = rng.random() < errors, list(box)
                kind = rng.integers(5) if wrong else -1
                if kind == 0:
                    continue  # missed
                if kind == 1:
                    box[1] += 7  # localisation
                moved = {"bbox": box, "segmentation": square_mask(*box)} if kind != 2 else shape
                said = 1 + label % 3 if kind == 3 else label
                found = {"image_id": image["id"], "category_id": said, "score": round(float(rng.random()), 3), **moved}
                results.append(found)
                if kind == 4:
                    results.append(found | {"score": found["score"] / 2})  # duplicate
                if kind == 2:
                    results.append(found | {"bbox": [2, 36, 5, 5], "segmentation": square_mask(2, 36, 5, 5)})
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    truth = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    return truth, {"good": in_rle(good), "bad": in_rle(bad)}


def in_rle(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Masks as results have them."""
    for result in results:
        rle = to_rle(result["segmentation"], 48, 64)
        result["segmentation"] = {"size": [48, 64], "counts": rle["counts"].decode()}
    return results


@pytest.fixture(scope="session")
def files(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with truth.json, images/, and a training's output folder a model."""
    folder = tmp_path_factory.mktemp("explore")
    truth, models = dataset
    (folder / "truth.json").write_text(json.dumps(truth))
    (folder / "images").mkdir()
    for i, image in enumerate(truth["images"][:-1]):  # the last one is missing
        Image.new("RGB", (64, 48), (20 * i, 120, 200)).save(folder / "images" / image["file_name"])
    for name, results in models.items():
        path = folder / name / "inference" / "truth" / "coco_instances_results.json"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(results))
    lines = [{"iteration": i, "bbox/AP": 10.0 * i, "total_loss": 1.0, "time": 0.1} for i in range(3)]
    (folder / "good" / "metrics.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "bad" / "metrics.json").write_text("no log\n")
    return folder
