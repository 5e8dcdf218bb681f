"""Image files and arrays in the channel order that a model wants, and PNGs whose pixels are ids."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from detectron2.data import detection_utils
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.utils.file_io import PathManager
from PIL import Image

from ..files import refuse_special
from ..structures import decode_ids

_EXIF_ORIENTATION = 0x0112
_SIDEWAYS = (5, 6, 7, 8)  # orientations that exchange height and width


def read_image(path: str | os.PathLike, image_format: str | None = "BGR") -> np.ndarray:
    """H x W x channels, uint8, with the file's EXIF orientation applied: what all of our mappers read.

    Pixels of 16 bits are scaled to 8, and floats of 0..1 to 0..255.

    Args:
        path: of any format that PIL reads.
        image_format: as ``INPUT.FORMAT``: "BGR", "RGB" or "L"; None: the file's own.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is a folder, no image, a damaged one, or one of pixels whose range is not known; the message names
            it.
    """
    path = os.fspath(path)
    with _opened(path) as image:
        return convert_pil(image, image_format)


_detectron2s = detection_utils.read_image


def _read_for_detectron2(file_name: str, format: str | None = None) -> np.ndarray:
    """In place of Detectron2's, so that its own mapper neither clips what has more than 8 bits nor waits for a pipe.
    "L" is how it reads maps of class ids, which must not be scaled.
    """
    refuse_special(file_name)
    return _detectron2s(file_name, format) if format == "L" else read_image(file_name, format)


detection_utils.read_image = _read_for_detectron2


def read_head(path: str | os.PathLike) -> tuple[int, int, int | None]:
    """Height and width, as `read_image` gives them, and `highest_value`, of a file whose pixels are not read.

    Raises:
        FileNotFoundError, OSError: as `read_image`, of what the head of the file shows.
    """
    with _opened(os.fspath(path)) as image:
        width, height = image.size
        if image.getexif().get(_EXIF_ORIENTATION) in _SIDEWAYS:
            width, height = height, width
        return height, width, highest_value(image.mode, image.format)


def read_ids(path: str | os.PathLike) -> np.ndarray:
    """The segment ids in a PNG of COCO's panoptic format, H x W, int32.

    Raises:
        FileNotFoundError, OSError: as `read_image`.
    """
    return decode_ids(read_image(path, "RGB"))


def read_map(path: str | os.PathLike, dtype: type = int) -> np.ndarray:
    """The class ids in a PNG of a semantic map, H x W. (Detectron2's own reader forbids the copy that numpy 2 needs.)

    Raises:
        FileNotFoundError, OSError: as `read_image`.
    """
    with _opened(os.fspath(path)) as image:
        return np.array(image, dtype=dtype)


@contextmanager
def _opened(path: str) -> Iterator[Image.Image]:
    """The image of a file; within it, whatever PIL raises becomes an error that names the file."""
    refuse_special(path)
    if os.path.isdir(path):
        raise IsADirectoryError(f"{path} is a folder, not an image.")
    try:
        with PathManager.open(path, "rb") as file, Image.open(file) as image:
            yield image
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    except Exception as error:  # PIL's decoders raise almost anything on a broken file
        raise OSError(f"{path} cannot be read as an image ({type(error).__name__}: {error}).") from error


def highest_value(mode: str, file_format: str | None) -> int | None:
    """What white is in images of a mode of PIL's, 65535 or 1; None where it is 255, 0 where it is not known."""
    if mode == "F":
        return 1
    is_16_bit = mode.startswith("I;16") or file_format == "PNG"  # which older versions of PIL call "I"
    return (65535 if is_16_bit else 0) if mode.startswith("I") else None


def _as_8_bit(image: Image.Image, highest: int | None) -> Image.Image:
    """PIL would clip what has more bits."""
    if highest is None:
        return image
    pixels = np.asarray(image)
    low, high = pixels.min(), pixels.max()
    if not 0 <= low <= high <= highest:
        raise ValueError(
            f"its mode is {image.mode!r}, its pixels are {low}..{high}, and what is white is not known: save it with "
            "8 or 16 bits, or as floats of 0..1"
        )
    return Image.fromarray((pixels * (255 / highest) + 0.5).astype(np.uint8))


def convert_image(image: np.ndarray, order: str, image_format: str) -> np.ndarray:
    """H x W x 3 in the channel order "BGR" or "RGB" -> ``image_format``, as `read_image` gives it."""
    if order == image_format:
        return image
    rgb = image if order == "RGB" else image[:, :, ::-1]
    return convert_PIL_to_numpy(Image.fromarray(np.ascontiguousarray(rgb)), image_format)


def convert_pil(image: Image.Image, image_format: str | None) -> np.ndarray:
    """An opened image as `read_image` gives its file.

    Raises:
        ValueError: its pixels have a range that is not known.
    """
    highest = highest_value(image.mode, image.format)
    return convert_PIL_to_numpy(_as_8_bit(_apply_exif_orientation(image), highest), image_format)
