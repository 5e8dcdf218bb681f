"""Images as small JPEGs for the page."""

import base64
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2

from ..data.image_files import read_image

_QUALITY = 85


def small_jpeg(path: Path, side: int) -> bytes:
    """The image as a JPEG whose longer side has at most this many pixels; empty where it cannot be read."""
    try:
        image = read_image(path, "BGR")
    except (OSError, ValueError):
        return b""
    scale = side / max(image.shape[:2])
    if scale < 1:
        size = [max(1, round(scale * length)) for length in image.shape[1::-1]]
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    encoded, content = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    return content.tobytes() if encoded else b""


def embed(paths: Iterable[Path], side: int, threads: int = 2) -> list[str]:
    """All of them in base64. One that cannot be read does not end the work on the others."""
    with ThreadPoolExecutor(threads) as pool:
        return [base64.b64encode(content).decode() for content in pool.map(lambda path: small_jpeg(path, side), paths)]
