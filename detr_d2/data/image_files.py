"""Image files and arrays in the channel order that a model wants."""

import os

import numpy as np
from detectron2.data.detection_utils import _apply_exif_orientation, convert_PIL_to_numpy
from detectron2.data.detection_utils import read_image as read_with_detectron2
from PIL import Image


def read_image(path: str | os.PathLike, image_format: str = "BGR") -> np.ndarray:
    """H x W x channels, uint8, with the file's EXIF orientation applied; what Detectron2's mappers read.

    Args:
        path: of any format that PIL reads.
        image_format: as ``INPUT.FORMAT``: "BGR", "RGB" or "L".

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it is a folder, no image, or a damaged one; the message names it.
    """
    path = os.fspath(path)
    try:
        return read_with_detectron2(path, format=image_format)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{path} does not exist.") from error
    except Exception as error:  # PIL's decoders raise almost anything on a broken file
        if os.path.isdir(path):
            raise IsADirectoryError(f"{path} is a folder, not an image.") from error
        raise OSError(f"{path} cannot be read as an image ({type(error).__name__}: {error}).") from error


def convert_image(image: np.ndarray, order: str, image_format: str) -> np.ndarray:
    """H x W x 3 in the channel order "BGR" or "RGB" -> ``image_format``, as `read_image` gives it."""
    if order == image_format:
        return image
    rgb = image if order == "RGB" else image[:, :, ::-1]
    return convert_PIL_to_numpy(Image.fromarray(np.ascontiguousarray(rgb)), image_format)


def convert_pil(image: Image.Image, image_format: str) -> np.ndarray:
    """An opened image as `read_image` gives its file."""
    return convert_PIL_to_numpy(_apply_exif_orientation(image), image_format)
