"""Published weights into a model by any ``load_state_dict``: that of torch, or of Detectron2's own checkpointer."""

import functools
import logging
from collections.abc import Collection, Mapping
from typing import Any

from fvcore.common.checkpoint import ObserverBase
from torch import Tensor, nn

from .class_rows import head_rows
from .layouts import recognise, unwrapped
from .layouts.detr import OURS
from .names import bare_names, bare_state
from .planning import REINIT, fits, plan_load


class ClassHead(nn.Linear):
    """A linear layer with a row for each class, whose published weights may have more rows.

    fvcore's checkpointer, which is Detectron2's, leaves out what has another shape than in the model, before the model
    sees the weights. It spares modules that mend shapes while they load, for which it takes the observers of
    quantization; so this one counts among those.
    """


ObserverBase.register(ClassHead)


def translate_when_loading(model: nn.Module, *, reinit: Collection[str] = ()) -> None:
    """Let ``model.load_state_dict`` read every published layout, also where a module that holds the model is loaded.

    See `translated`, whose errors it raises before anything is copied.
    """
    model.register_load_state_dict_pre_hook(functools.partial(_translate, reinit))


def translated(
    state: Mapping[str, Tensor], model: Mapping[str, Tensor], *, model_name: str, reinit: Collection[str] = ()
) -> Mapping[str, Tensor]:
    """A state dict of any layout under a model's names, with its class rows.

    One that has the model's names already, or is of no layout that is known, comes back as it is.

    Args:
        state: names of any layout -> tensors.
        model: the model's state dict.
        model_name: for messages.
        reinit: parts that are left out where they differ, see `plan_load`.

    Raises:
        ValueError: published weights do not fit the model, or any class head or queries do not; see `plan_load`.
    """
    has_own_names = state.keys() <= model.keys()  # of a part of the model, too, such as its backbone
    bare = dict(state) if has_own_names else unwrapped(state)
    if has_own_names or recognise(bare) is OURS:
        bare, names = bare_state(bare), bare_names(model)
        ours, rows = {name: model[own] for name, own in names.items()}, head_rows(bare)
        queries = filter(REINIT["queries"], bare.keys() & ours.keys())
        if rows is None or (rows == head_rows(ours) and all(fits(key, bare, ours) for key in queries)):
            renamed = {names.get(name, name): value for name, value in bare.items()}
            return state if renamed.keys() == state.keys() else renamed
    plan = plan_load(bare, model, source="The state dict", model_name=model_name, reinit=reinit)
    if plan is None:
        return state
    logging.getLogger(__name__).info(f"Loading {plan.report}")
    return plan.state


def _translate(reinit: Collection[str], model: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """The hook: it changes ``state`` in place, which is torch's copy."""
    given = {name[len(prefix) :]: value for name, value in state.items() if name.startswith(prefix)}
    result = translated(given, model.state_dict(), model_name=type(model).__name__, reinit=reinit)
    if result is not given:
        for name in given:
            del state[prefix + name]
        state.update({prefix + name: value for name, value in result.items()})
