"""The page in a headless Chromium: its numbers are the analysis's; slider, filters, clicks and keys do as they say."""

import base64
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from detr_d2.analysis.report import analyze_detections
from detr_d2.cli import explore
from detr_d2.explore.data import pack
from detr_d2.explore.page import pack_page

from .browser import Browser, chromium
from .conftest import CLASSES


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with chromium(tmp_path_factory.mktemp("chromium")) as browser:
        yield browser


@pytest.fixture(scope="module")
def written(files: Path) -> Path:
    path = files / "page.html"
    words = [str(files / "good"), str(files / "bad"), "--json-file", str(files / "truth.json")]
    assert explore.main([*words, "--image-root", str(files / "images"), "--output", str(path)]) == 0
    return path


@pytest.fixture
def page(browser: Browser, written: Path) -> Iterator[Browser]:
    browser.open(written)
    yield browser
    assert browser.log() == []


def rows(page: Browser, table: str) -> list[list[str]]:
    code = (
        "return [...document.querySelectorAll(arguments[0] + ' tbody tr')].map(r => [...r.cells].map(c => c.innerText))"
    )
    return page.run(code, table)


def count(page: Browser) -> int:
    return int(page.text("#count").split()[0])


@pytest.mark.parametrize("task", ["bbox", "segm"])
def test_rendered_numbers_are_those_of_the_evaluation(page: Browser, dataset, task: str):
    truth, models = dataset
    page.press(*(["t"] if task == "segm" else []), "2", "a")  # the model "bad"
    _, threshold, report = analyze_detections(truth, models["bad"], task)
    figures = report.figures
    by_class = {row[0]: row[1:4] for row in rows(page, "#ap-table")}
    assert set(by_class) == set(CLASSES)
    for entry in figures["classes"]:
        assert by_class[entry["name"]][1] == f"{entry['AP50']:.1f}"
    caption = page.text("#ap-table caption")
    assert caption.endswith(f"AP {figures['AP']:.1f}, AP50 {figures['AP50']:.1f}, AP75 {figures['AP75']:.1f}")
    shown = {row[0]: row[2:] for row in rows(page, "#error-table")}
    page.run(f"return app.update({{ threshold: {threshold!r} }})")
    page.frame()
    confident = {row[0]: row[3] for row in rows(page, "#error-table")}
    for kind in shown:
        assert shown[kind][0] == f"{figures['lost_AP50'][kind]:.1f}"
        assert confident[kind] == str(figures["errors_from_threshold"][kind])
    matrix = [[int(cell or 0) for cell in row[1:]] for row in rows(page, "#confusion")]
    assert matrix == figures["confusion_matrix"]["rows_are_truth"]


def test_hostile_names_are_text(page: Browser):
    page.press("a")
    assert page.run("document.title") == "truth"
    assert CLASSES[1] in page.text("#classes")
    assert CLASSES[2] in page.text("#confusion")
    assert page.run("document.querySelectorAll('img, b b').length") == 0
    page.run("return app.update({ view: 'images', sort: 'id' })")
    page.frame()
    page.press("Enter")
    assert page.text("#detail h2") == "<b>&0'\".png"


def test_nothing_else_runs(page: Browser):
    code = "const s = document.createElement('script'); s.textContent = 'globalThis.ran = 1'; document.body.append(s); "
    assert page.run(f"{code} return globalThis.ran") is None
    assert "Content Security Policy" in " ".join(page.log())


def test_slider_and_filters(page: Browser):
    def slide(value: float) -> list[int]:
        page.run("const s = document.querySelector('#threshold'); s.value = arguments[0]; return s.oninput()", value)
        page.frame()
        return page.run("return [...document.querySelectorAll('#kinds b')].map((b) => Number(b.textContent))")

    page.press("2")
    low, high = slide(0), slide(0.9)
    assert sum(low[:-1]) > sum(high[:-1])  # fewer detections
    assert low[-1] < high[-1]  # more is missed
    slide(0)
    everything = count(page)
    page.click("#kinds .filter:nth-last-child(2) button")  # background
    wrong = page.run("return app.chosen.order.every((i) => app.chosen.items[i] > 0)")
    assert 0 < count(page) < everything
    assert wrong
    page.press("x")
    assert count(page) == everything
    page.click("#no-classes")
    assert count(page) == 0
    page.click("#all-classes")
    page.run("const s = document.querySelector('#search'); s.value = '3.png'; return s.oninput()")
    page.frame()
    assert count(page) == 1


def test_a_click_on_a_confusion_on_a_bar_on_a_class_shows_its_images(page: Browser):
    page.press("2", "a")
    cell = page.text("#confusion button[data-truth='0'][data-said='1']")
    page.click("#confusion button[data-truth='0'][data-said='1']")
    assert page.run("return app.chosen.order.reduce((sum, i) => sum + app.chosen.items[i], 0)") == int(cell)
    assert page.text("#chips").startswith("is plain, said ")
    page.press("x", "a")
    page.click("#error-table button[data-kind='missed']")
    assert page.run("return [...app.state.kinds].map((kind) => app.task.kinds[kind])") == ["missed"]
    page.press("x", "a")
    page.click("#ap-table tbody button")
    assert page.run("return app.task.classes.length - app.state.off.size") == 1


def test_keys_and_the_detail(page: Browser):
    page.press("ArrowRight", "Enter")
    assert page.run("document.querySelector('#detail').open")
    assert page.run("document.querySelectorAll('#detail canvas').length") == 3  # ground truth, two models
    name = page.text("#detail h2")
    page.press("o")
    assert page.run("document.querySelectorAll('#detail canvas').length") == 1
    page.press("ArrowRight")
    assert page.text("#detail h2") != name
    assert "analyze_errors.py --dataset truth" in page.text("#detail code")
    page.press("+")
    assert page.run("app.detail.zoom") > 1
    page.press("Escape")
    assert not page.run("document.querySelector('#detail').open")
    before = page.run("app.state.threshold")
    page.press("]")
    assert page.run("app.state.threshold") > before
    page.press("d")
    assert page.run("app.isDark()")


def test_training_curves(page: Browser):
    page.press("l")
    assert page.text("#training .u-legend").count("good") == 1
    assert page.run("return [...document.querySelector('#metric').options].map((o) => o.value)") == [
        "bbox/AP",
        "total_loss",
    ]


def test_masks_are_decoded(page: Browser):
    """Each mask's pixels are as many as its area."""
    page.press("t")
    code = """const { model, data } = app, wrong = [], last = model.mask.length;
    for (let d = 0; d < last; d++) {
      const runs = app.decodeRuns(model.mask[d]);
      const area = runs.reduce((sum, run, place) => sum + (place % 2 ? run : 0), 0);
      if (area !== model.area[d]) wrong.push([d, area, model.area[d]]);
    }
    return wrong;"""
    assert page.run(code) == []


def test_the_selection_is_coco(page: Browser, dataset):
    truth, _ = dataset
    page.run("return app.update({ threshold: 0 })")
    page.frame()
    chosen = page.run("app.selection()")
    assert {image["id"] for image in chosen["images"]} == {image["id"] for image in truth["images"]}
    ours = {a["id"]: a for a in chosen["annotations"]}
    for annotation in truth["annotations"]:
        assert ours[annotation["id"]]["bbox"] == pytest.approx(annotation["bbox"], abs=0.011)
        assert ours[annotation["id"]]["category_id"] == annotation["category_id"]
    assert [c["name"] for c in chosen["categories"]] == CLASSES


def test_contrast_of_text(page: Browser):
    """WCAG AA, 4.5 to 1, in light and in dark."""
    code = """const rgb = (t) => t.match(/[\\d.]+/g).map(Number);
    const lum = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
      .reduce((s, c, i) => s + c * [0.2126, 0.7152, 0.0722][i], 0);
    const paper = (n) => {
      for (; n; n = n.parentElement) {
        const c = rgb(getComputedStyle(n).backgroundColor);
        if (c.length < 4 || c[3] > 0) return c;
      }
      return [255, 255, 255];
    };
    const bad = [];
    for (const n of document.querySelectorAll('body *')) {
      if (!n.offsetParent || ![...n.childNodes].some((c) => c.nodeType === 3 && c.textContent.trim())) continue;
      const a = lum(rgb(getComputedStyle(n).color)), b = lum(paper(n));
      const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
      if (ratio < 4.5 && !n.disabled) bad.push([n.tagName, n.className, n.textContent.slice(0, 30), ratio]);
    }
    return bad;"""
    for key in ("a", "d"):
        page.press(key)
        assert page.run(code) == []


def test_five_thousand_images_with_500_000_detections(browser: Browser, tmp_path: Path):
    """Opens in seconds and scrolls: the tiles in sight are all that there are."""
    path = tmp_path / "large.html"
    path.write_text(large_page())
    start = time.monotonic()
    browser.open(path)
    opened = time.monotonic() - start
    memory = browser.run("performance.memory.usedJSHeapSize") / 2**20
    start = time.monotonic()
    browser.press("End")
    moved = time.monotonic() - start
    assert browser.run("return app.grid.current") == 4999
    browser.wait("document.querySelector('[aria-selected=true]')")
    assert browser.run("document.querySelectorAll('.tile').length") < 80
    milliseconds = browser.run("const t = performance.now(); app.render(); return performance.now() - t")
    print(
        f"{path.stat().st_size / 2**20:.1f} MB, open {opened:.2f} s, heap {memory:.0f} MB, to the end {moved:.2f} s, "
        f"filter and redraw {milliseconds:.0f} ms"
    )
    assert opened < 20
    assert milliseconds < 2000


def large_page(images: int = 5000, each: int = 100, objects: int = 7, classes: int = 80) -> str:
    """Random boxes in place of a model's, and two pictures in turns."""
    rng = np.random.default_rng(0)
    size, truths = images * each, images * objects

    def shapes(count: int) -> dict:
        corner = rng.integers(0, 40000, (count, 2))
        box = np.concatenate([corner, corner + rng.integers(500, 25000, (count, 2))], 1)
        return {"box": pack(box.astype(np.uint16)), "area": pack(rng.uniform(10, 20000, count).astype(np.float32))}

    def labels(count: int) -> dict[str, str]:
        return pack(rng.integers(0, classes, count).astype(np.uint16))

    score = -np.sort(-(rng.random((images, each)) ** 4), axis=1)
    curve = pack(np.linspace(1, 0, 101, dtype=np.float32)[None].repeat(classes, 0))
    kinds = ["ignored", "correct", "classification", "localisation", "both", "duplicate", "background", "missed"]
    figures = {"AP": 40.0, "AP50": 60.0, "AP75": 45.0, "lost_AP50": dict.fromkeys(kinds[2:], 1.0)}
    best = pack(rng.random(truths).astype(np.float32))
    model = {
        **{"name": "random", "threshold": 0.5, "figures": figures, "found": best, "chosen": best},
        "start": pack(np.arange(images + 1, dtype=np.uint32) * each),
        **{"label": labels(size), "truth": labels(size), "score": pack(score.ravel().astype(np.float32))},
        "kind": pack(rng.integers(1, 7, size).astype(np.uint8)),
        "target": pack(np.full(size, -1, dtype=np.int32)),
        **{key: [50.0] * classes for key in ("AP", "AP50", "AP75")},
        **{"precision": curve, "scores": curve, **shapes(size)},
    }
    truth = {
        "start": pack(np.arange(images + 1, dtype=np.uint32) * objects),
        **{"label": labels(truths), "crowd": pack(np.zeros(truths, dtype=np.uint8))},
        **{"id": list(range(truths)), **shapes(truths)},
    }
    names = [f"class {i}" for i in range(classes)]
    task = {"task": "bbox", "classes": names, "classIds": list(range(classes)), "kinds": kinds, "objects": truth}
    task |= {"colors": ["rgb(0, 158, 115)"] * len(kinds), "models": [model]}
    listed = [{"id": i, "file_name": f"{i:06}.jpg", "width": 640, "height": 480} for i in range(images)]
    noise = [cv2.resize(rng.integers(0, 255, (12, 16, 3), dtype=np.uint8), (128, 96)) for _ in range(2)]
    pictures = [base64.b64encode(jpeg(x)).decode() for x in noise]
    data = {"dataset": "large", "images": listed, "tasks": [task], "commands": {"random": ""}, "curves": {}}
    return pack_page(data, [pictures[i % 2] for i in range(images)])


def jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()
