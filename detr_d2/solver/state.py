"""The state of an optimizer by the names of its parameters: learning rates may change, and with them the groups."""

from typing import Any

import torch
from torch import nn


def parameter_names(optimizer: torch.optim.Optimizer, model: nn.Module) -> list[str]:
    """Names of the optimizer's parameters, in the order in which its ``state_dict`` counts them."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    return [names[parameter] for group in optimizer.param_groups for parameter in group["params"]]


def fitted_state(
    optimizer: torch.optim.Optimizer, names: list[str], saved: dict[str, Any], saved_names: list[str] | None
) -> dict[str, Any]:
    """The saved state of every parameter with the optimizer's own groups, for its ``load_state_dict``.

    Args:
        optimizer: newly built; its learning rates, weight decay and other settings are kept.
        names: see `parameter_names`.
        saved: a ``state_dict`` of an optimizer of the same kind.
        saved_names: its names; None: unknown, so its groups must have the sizes of these.

    Raises:
        ValueError: other parameters were trained, by name.
    """
    groups = optimizer.state_dict()["param_groups"]
    if saved_names is None:
        sizes, saved_sizes = ([len(group["params"]) for group in part] for part in (groups, saved["param_groups"]))
        if sizes != saved_sizes:
            raise ValueError(
                f"The run that is resumed trained groups of {saved_sizes} parameters, but the config makes {sizes}. "
                "Set the keys of SOLVER and MODEL to what they were."
            )
        saved_names = names
    changed = sorted(set(names) ^ set(saved_names))
    if changed:
        raise ValueError(
            f"The run that is resumed trained other parameters: {', '.join(changed[:3])}"
            f"{f' and {len(changed) - 3} more' if len(changed) > 3 else ''} "
            f"{'is' if len(changed) == 1 else 'are'} trained in only one of the two. Set the keys of MODEL that freeze "
            "parts to what they were, or begin a new run in another OUTPUT_DIR with MODEL.WEIGHTS."
        )
    position = {name: index for index, name in enumerate(saved_names)}
    state = {i: saved["state"][position[n]] for i, n in enumerate(names) if position[n] in saved["state"]}
    return {"state": state, "param_groups": groups}
