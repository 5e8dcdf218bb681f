"""Names of a box model's tensors: bare, or after the ``detr.`` under which a panoptic model holds its box model.

Everything that reads names here reads bare ones; this is where they come from and go back to.
"""

from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

BOX_MODEL = "detr."
# What a panoptic model has beside it; the last only in training.
MASK_STAGE = ("mask_head.", "bbox_attention.")
TRAINING_ONLY = ("dense_class_embed.",)


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Bare name -> name, in order, for all names of one model; names that could not be told apart stay as they are."""
    names = list(names)
    bare = {name.removeprefix(BOX_MODEL): name for name in names}
    return bare if len(bare) == len(names) else {name: name for name in names}


def bare_state(state: Mapping[str, T]) -> dict[str, T]:
    """A state dict of either kind of model under bare names."""
    return {bare: state[name] for bare, name in bare_names(state).items()}


def as_held(state: Mapping[str, T]) -> dict[str, T]:
    """A state dict of bare names under the model's own, which are others where there is a mask stage."""
    if not any(name.startswith(MASK_STAGE) for name in state):
        return dict(state)
    beside = MASK_STAGE + TRAINING_ONLY
    return {name if name.startswith(beside) else BOX_MODEL + name: value for name, value in state.items()}
