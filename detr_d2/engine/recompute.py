"""Activations that are computed again in the backward pass rather than kept (``MODEL.CHECKPOINT_ACTIVATIONS``)."""

import contextlib
import functools
from collections.abc import Callable, Iterator

from detectron2.config import CfgNode
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

# What may be named -> whether a module of such a path, in a parent of this type, is one of its blocks.
_BLOCKS: dict[str, Callable[[list[str], nn.Module], bool]] = {
    "backbone": lambda path, parent: "backbone" in path[:-1] and isinstance(parent, nn.Sequential),
    "encoder": lambda path, parent: path[-3:-1] == ["encoder", "layers"],
}


def recompute_activations(cfg: CfgNode, model: nn.Module) -> None:
    """Let the blocks of the parts that ``MODEL.CHECKPOINT_ACTIVATIONS`` names keep no more than their inputs while they
    train, in place. Gradients and statistics of norms are the same.

    Raises:
        ValueError: a part that is unknown, or that the model does not have.
    """
    for part in filter(None, cfg.MODEL.CHECKPOINT_ACTIVATIONS.replace(",", " ").split()):
        if part not in _BLOCKS:
            raise ValueError(
                f"MODEL.CHECKPOINT_ACTIVATIONS names {part!r}: it may name {', '.join(_BLOCKS)}, "
                "with commas between them."
            )
        blocks = []
        for name, module in model.named_modules():
            path = name.split(".")
            if name and _BLOCKS[part](path, model.get_submodule(".".join(path[:-1]))):
                blocks.append(module)
        if not blocks:
            raise ValueError(
                f"MODEL.CHECKPOINT_ACTIVATIONS names {part!r}, of which {cfg.MODEL.META_ARCHITECTURE} has no blocks: "
                "leave it out."
            )
        for block in blocks:
            block.forward = functools.partial(_recomputed, block, block.forward)


def _recomputed(block: nn.Module, forward: Callable[..., Tensor], *args: object) -> Tensor:
    if not block.training:
        return forward(*args)
    contexts = functools.partial(_first_and_again, block)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts)


def _first_and_again(block: nn.Module) -> tuple[contextlib.AbstractContextManager, contextlib.AbstractContextManager]:
    return contextlib.nullcontext(), _without_statistics(block)


@contextlib.contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Within it no BatchNorm sees its batch for a second time."""
    norms = [m for m in block.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked -= 1
