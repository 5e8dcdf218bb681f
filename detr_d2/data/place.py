"""Where in a training the image that is being made belongs, for augmentations that depend on it."""

from contextvars import ContextVar
from typing import NamedTuple


class Place(NamedTuple):
    """The step that an image is for.

    Attributes:
        progress: of the training, from 0 to below 1.
        seed: of the step, the same for all of its images, in all processes.
    """

    progress: float
    seed: int


# Set while the mapper of a training loader makes an image; None elsewhere, as when augmentations are drawn for people.
PLACE: ContextVar[Place | None] = ContextVar("PLACE", default=None)
