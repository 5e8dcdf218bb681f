#!/usr/bin/env python
"""Detect objects in an image with an ONNX file that tools/export.py wrote. Needs numpy, Pillow and onnxruntime only.

    python tools/run_onnx.py detr.onnx image.jpg --threshold 0.7 --output drawn.png --json detections.json

Prints a line per detection: class, score, and left, top, right, bottom in the image's pixels. It is meant to be read
and copied: `Detector` is what an application needs.
"""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnxruntime
from PIL import Image, ImageDraw, ImageOps


class Detections(NamedTuple):
    """Of one image, best first.

    Attributes:
        boxes: D x 4, left, top, right, bottom in the image's pixels.
        scores, classes: D.
        masks: D x height x width, boolean; None of a model without masks.
    """

    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    masks: np.ndarray | None


# Of an ONNX file's metadata, beside what `Detector` reads of some models alone.
NEEDED = {"batch_size", "channel_order", "class_names", "height", "max_size", "min_size", "size_multiple", "width"}


class Detector:
    """An ONNX file, ready to be called with images."""

    def __init__(self, path: str) -> None:
        require_file(path)
        self.session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        metadata = self.session.get_modelmeta().custom_metadata_map
        if missing := NEEDED - metadata.keys():
            raise ValueError(f"{path} was not written by tools/export.py: its metadata has no {min(missing)}.")
        self.facts = {name: parse(value) for name, value in metadata.items()}
        names, numbers = self.facts["class_names"], NEEDED - {"channel_order", "class_names"}
        fits = all(isinstance(self.facts[name], int) and self.facts[name] >= 0 for name in numbers)
        if not (fits and isinstance(names, list) and all(isinstance(name, str) for name in names)):
            raise ValueError(f"{path} was not written by tools/export.py: its metadata has other kinds of values.")
        self.output_names = [output.name for output in self.session.get_outputs()]
        inputs = {value.name for value in self.session.get_inputs()}
        if inputs != {"images", "sizes"} or not {"scores", "classes"} <= set(self.output_names):
            raise ValueError(f"{path} was not written by tools/export.py: it has other inputs or outputs.")

    def __call__(self, image: Image.Image, threshold: float = 0.0) -> Detections:
        """What is in an image with a score of at least ``threshold``."""
        pixels, size = self.prepare(image)
        # A file of a fixed batch size gets the image as often as it asks for.
        count = max(1, self.facts["batch_size"])
        inputs = {"images": np.repeat(pixels, count, 0), "sizes": np.repeat(size, count, 0)}
        outputs = {name: x[0] for name, x in zip(self.output_names, self.session.run(None, inputs), strict=True)}
        kept = np.flatnonzero((outputs["scores"] >= threshold) & (outputs["scores"] > 0))
        kept = kept[np.argsort(-outputs["scores"][kept], kind="stable")]
        height, width = size[0]
        if "boxes" not in outputs:
            return self.detections_of_masks(outputs, kept, (width, height), image.size)
        if "nms_threshold" in self.facts:
            best = suppress(outputs["boxes"][kept], outputs["classes"][kept], self.facts["nms_threshold"])
            kept = kept[best][: self.facts["max_detections"]]
        scale = np.array([image.width / width, image.height / height] * 2)
        boxes = outputs["boxes"][kept] * scale
        has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
        kept, boxes = kept[has_area], boxes[has_area]
        masks = None
        if "masks" in outputs:
            masks = np.zeros((len(kept), image.height, image.width), bool)
            for mask, i in zip(masks, kept, strict=True):
                mask[:] = self.mask(outputs["masks"][i], (width, height), image.size)
        return Detections(boxes, outputs["scores"][kept], outputs["classes"][kept], masks)

    def prepare(self, image: Image.Image) -> tuple[np.ndarray, np.ndarray]:
        """The image resized and padded, 1 x 3 x H x W, and its size before padding, 1 x 2."""
        width, height = image.size
        free = self.facts["height"] == 0
        if free and self.facts["min_size"]:
            scale = self.facts["min_size"] / min(width, height)
            scale = min(scale, self.facts["max_size"] / max(width, height))
        elif free:
            scale = 1.0
        else:
            scale = min(self.facts["height"] / height, self.facts["width"] / width)
        height, width = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
        height, width = self.facts.get("squash", (height, width))
        pixels = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)
        if self.facts["channel_order"] == "BGR":
            pixels = pixels[:, :, ::-1]
        multiple = self.facts["size_multiple"]
        rows, columns = (-(-side // multiple) * multiple for side in (height, width))
        if not free:
            rows, columns = self.facts["height"], self.facts["width"]
        batch = np.zeros((1, 3, rows, columns), np.float32)
        batch[0, :, :height, :width] = pixels.transpose(2, 0, 1)
        return batch, np.array([[height, width]], np.int64)

    def detections_of_masks(
        self, outputs: dict[str, np.ndarray], kept: np.ndarray, size: tuple[int, int], image_size: tuple[int, int]
    ) -> Detections:
        """Of a Mask2Former, with the boxes of masks that are not empty; sizes are (width, height)."""
        logits = [Image.fromarray(self.resized(outputs["masks"][i], size)) for i in kept]
        masks = np.array([np.asarray(x.resize(image_size, Image.Resampling.BILINEAR)) > 0 for x in logits], bool)
        masks = masks.reshape(-1, *image_size[::-1])
        some = masks.any((1, 2))
        masks, kept = masks[some], kept[some]
        spans = [[mask.any(axis).nonzero()[0][[0, -1]] for axis in (0, 1)] for mask in masks]  # of columns, of rows
        boxes = np.array([[x[0], y[0], x[1] + 1, y[1] + 1] for x, y in spans], float).reshape(-1, 4)
        return Detections(boxes, outputs["scores"][kept], outputs["classes"][kept], masks)

    def resized(self, logits: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Mask logits -> height x width of the image as the model took it; ``size`` is (width, height)."""
        stride, multiple = self.facts["mask_stride"], self.facts.get("frame_multiple", 1)
        width, height = (-(-side // multiple) * multiple for side in size)
        logits = np.ascontiguousarray(logits[: -(-height // stride), : -(-width // stride)])
        return np.asarray(Image.fromarray(logits).resize((width, height), Image.Resampling.BILINEAR))[
            : size[1], : size[0]
        ]

    def mask(self, logits: np.ndarray, size: tuple[int, int], image_size: tuple[int, int]) -> np.ndarray:
        """Mask logits -> height x width of the image, boolean; sizes are (width, height)."""
        inside = self.resized(logits, size) > 0
        rows, columns = (np.arange(n) * side // n for n, side in zip(image_size[::-1], size[::-1], strict=True))
        return inside[rows][:, columns]


def read_image(path: str) -> Image.Image:
    """An RGB image, upright; 16 bits are scaled to 8, and floats of 0..1 to 0..255, which Pillow would clip."""
    require_file(path)
    image = Image.open(path)
    is_16_bit = image.mode.startswith("I;16") or image.format == "PNG"
    highest = 1 if image.mode == "F" else 65535 if is_16_bit else 0
    is_deep, image = image.mode.startswith(("I", "F")), ImageOps.exif_transpose(image)
    if is_deep:
        pixels = np.asarray(image)
        if not 0 <= pixels.min() <= pixels.max() <= highest:
            raise ValueError(f"{path}: what is white in its mode {image.mode!r} is not known: save it with 8 bits.")
        image = Image.fromarray((pixels * (255 / highest) + 0.5).astype(np.uint8))
    return image.convert("RGB")


def require_file(path: str) -> None:
    """Raise an error for what is no file, such as a pipe, which would be waited for."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is no file.")


def parse(value: str) -> object:
    """What a text of the metadata says; texts that other tools have added need not be JSON."""
    try:
        return json.loads(value)
    except ValueError:
        return value


def suppress(boxes: np.ndarray, classes: np.ndarray, threshold: float) -> list[int]:
    """Non-maximum suppression within each class: which boxes, best first, overlap no better one by more than that."""
    boxes = boxes.astype(np.float64)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    kept, left = [], np.arange(len(boxes))
    while len(left):
        first, left = left[0], left[1:]
        kept.append(int(first))
        corner = np.maximum(boxes[first, :2], boxes[left, :2])
        overlap = (np.minimum(boxes[first, 2:], boxes[left, 2:]) - corner).clip(min=0).prod(1)
        union = np.maximum(area[first] + area[left] - overlap, 1e-12)
        left = left[(overlap / union <= threshold) | (classes[left] != classes[first])]
    return kept


def draw(image: Image.Image, detections: Detections, names: list[str]) -> Image.Image:
    """The image with boxes and labels, and with masks in colours, of which a pixel takes that of the highest score."""
    colors = np.random.default_rng(3).integers(64, 256, (max(1, len(names)), 3))
    if detections.masks is not None:
        pixels = np.asarray(image, dtype=np.float32).copy()
        free = np.ones(pixels.shape[:2], bool)
        for mask, label in zip(detections.masks, detections.classes, strict=True):
            pixels[mask & free] = 0.5 * pixels[mask & free] + 0.5 * colors[label]
            free &= ~mask
        image = Image.fromarray(pixels.astype(np.uint8))
    drawn = image.copy()
    pen = ImageDraw.Draw(drawn)
    for box, score, label in zip(detections.boxes, detections.scores, detections.classes, strict=True):
        pen.rectangle([float(x) for x in box], outline=tuple(map(int, colors[label])), width=2)
        pen.text(
            (float(box[0]) + 3, float(box[1]) + 2),
            f"{names[label]} {score:.0%}",
            fill="white",
            stroke_width=1,
            stroke_fill="black",
        )
    return drawn


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="file that tools/export.py wrote")
    parser.add_argument("image", help="picture of any format that Pillow reads")
    parser.add_argument("--threshold", type=float, default=0.5, help="least score (default: %(default)s)")
    parser.add_argument("--output", type=Path, help="picture to write, with boxes and masks")
    parser.add_argument("--json", type=Path, help="file to write, a list of detections")
    args = parser.parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # letters that the terminal does not know
    try:
        run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # nobody reads any more, as behind `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # since Python flushes stdout once more
        return 141
    except (OSError, ValueError, *onnxruntime_errors()) as error:
        print(f"run_onnx.py: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


def run(args: argparse.Namespace) -> None:
    """Print what is found, and write what is asked for."""
    detector = Detector(args.model)
    image = read_image(args.image)
    found = detector(image, args.threshold)
    names = detector.facts["class_names"]
    rows = [
        {"class": names[label], "class_id": int(label), "score": float(score), "box": [float(x) for x in box]}
        for box, score, label in zip(found.boxes, found.scores, found.classes, strict=True)
    ]
    for row in rows:
        print(f"{row['class']} {row['score']:.3f}", *(f"{x:.1f}" for x in row["box"]))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))
    if args.output:
        draw(image, found, names).save(args.output)


def onnxruntime_errors() -> list[type[Exception]]:
    """What onnxruntime raises of a file that is none, or does not fit; they have no base of their own."""
    found = vars(onnxruntime.capi.onnxruntime_pybind11_state).values()
    return [kind for kind in found if isinstance(kind, type) and issubclass(kind, Exception)]


if __name__ == "__main__":
    sys.exit(main())
