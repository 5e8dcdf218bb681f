"""Names of tensors, without what programs put before them.

Everything that reads names here reads bare ones: of a box model, without the ``detr.`` under which a panoptic model
holds it. This is where they come from and go back to.
"""

import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")

BOX_MODEL = "detr."
# What a panoptic model has beside it; the last only in training.
MASK_STAGE = ("mask_head.", "bbox_attention.")
TRAINING_ONLY = ("dense_class_embed.",)
# The embedding of classes that denoising reads, of a box model, with a row for each class and one more. Only training
# has it, too.
LABEL_EMBEDDING = "label_enc.weight"
# Counters of BatchNorm: frozen norms have none, and trainable ones start without.
COUNTER = "num_batches_tracked"


def bare_names(names: Iterable[str]) -> dict[str, str]:
    """Bare name -> name, in order, for all names of one model; names that could not be told apart stay as they are."""
    names = list(names)
    # More than once where somebody's wrapper holds a panoptic model under the same name.
    bare = {re.sub(rf"^({re.escape(BOX_MODEL)})+", "", name): name for name in names}
    return bare if len(bare) == len(names) else {name: name for name in names}


def bare_state(state: Mapping[str, T]) -> dict[str, T]:
    """A state dict of either kind of model under bare names."""
    return {bare: state[name] for bare, name in bare_names(state).items()}


def as_held(state: Mapping[str, T], *, panoptic: bool | None = None) -> dict[str, T]:
    """A state dict of bare names under the model's own, which are others where there is a mask stage.

    Args:
        panoptic: whether there is one; None: see the names.
    """
    if not (has_mask_stage(state) if panoptic is None else panoptic):
        return dict(state)
    beside = MASK_STAGE + TRAINING_ONLY
    return {name if name.startswith(beside) else BOX_MODEL + name: value for name, value in state.items()}


def has_mask_stage(names: Iterable[str]) -> bool:
    """Whether some names are of a panoptic model's mask stage."""
    return any(name.startswith(MASK_STAGE) for name in names)
