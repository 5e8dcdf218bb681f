"""What the head of an image file shows."""

from typing import Any

from ..image_files import read_head
from .problems import Problems


def check_size(record: dict[str, Any], *, is_error: bool = True) -> Problems:
    """An image that cannot be opened, an error or a warning; one of another size than its record says, an error; and
    one of more than 8 bits, a warning.
    """
    problems, file, ident = Problems(), record["file_name"], record.get("image_id")
    try:
        height, width, highest = read_head(file)
    except OSError as error:
        problems.add("unreadable-image", file, ident, str(error), is_error=is_error)
        return problems
    said = record.get("height", height), record.get("width", width)
    if (height, width) != said:
        message = f"it is {width} x {height}, the JSON says {said[1]} x {said[0]} (width x height)"
        problems.error("size-mismatch", file, ident, message)
    if highest is not None:
        problems.warn("image-mode", file, ident, "more than 8 bits a channel, which are scaled to 8")
    return problems
