"""Pascal VOC's annotations, read as COCO's."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..files import refuse_special

_MAX_BYTES = 1_000_000  # an annotation has a few thousand


def read_voc(annotations: Path, image_list: Path, categories: Sequence[str]) -> tuple[dict[str, Any], int]:
    """What COCO's format says of the images of a list, and how many boxes of one pixel were left out.

    Args:
        annotations: folder with an XML file an image.
        image_list: a text file whose lines begin with the names of images, without suffix.
        categories: names, in the order of their ids, which begin at 1.

    Raises:
        ValueError: a file is no annotation, or an object has another category; names the file.
        OSError: a file cannot be read.
    """
    names = [line.split()[0] for line in image_list.read_text().splitlines() if line.strip()]
    ids = {name: i for i, name in enumerate(categories, 1)}
    images, boxes, left_out = [], [], 0
    for image_id, name in enumerate(names, 1):
        path = annotations / f"{Path(name).name}.xml"
        root = _parse(path)
        try:
            size = {side: int(root.find("size").findtext(side)) for side in ("width", "height")}
            images.append({"id": image_id, "file_name": Path(root.findtext("filename")).name, **size})
            for item in root.iter("object"):
                corners = [int(float(item.find("bndbox").findtext(key))) for key in ("xmin", "ymin", "xmax", "ymax")]
                label = ids[item.findtext("name")]
                x, y, width, height = corners[0] - 1, corners[1] - 1, *(corners[i + 2] - corners[i] + 1 for i in (0, 1))
                if width <= 1 or height <= 1:
                    left_out += 1
                    continue
                box = {"bbox": [x, y, width, height], "area": width * height, "iscrowd": 0}
                boxes.append({"id": len(boxes) + 1, "image_id": image_id, "category_id": label, **box})
        except KeyError as error:
            raise ValueError(f"{path}: category {error} is not among {', '.join(categories)}.") from None
        except (AttributeError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is no annotation in Pascal VOC's format.") from error
    listed = [{"id": i, "name": name} for name, i in ids.items()]
    return {"images": images, "annotations": boxes, "categories": listed}, left_out


def _parse(path: Path) -> ElementTree.Element:
    """The root of a small XML file, which may not define entities: they grow without bounds."""
    refuse_special(path)
    with open(path, "rb") as file:
        text = file.read(_MAX_BYTES + 1)
    if len(text) > _MAX_BYTES or b"<!" in text:
        raise ValueError(
            f"{path} is no annotation in Pascal VOC's format: it is too large or defines types of its own."
        )
    try:
        return ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} is no XML file ({error}).") from None
