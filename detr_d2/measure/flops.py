"""Counting multiply-adds while a model runs, and naming what could not be counted."""

import importlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._ops import OpOverload
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from .flop_formulas import FORMULAS, FUNCTIONS, Formula
from .light_operators import is_light


@dataclass(frozen=True)
class FlopCount:
    """Of one image, or the mean of several.

    Attributes:
        total: multiply-adds; see ``flop_formulas.CONVENTION``.
        by_operator: those of each kind of operator.
        unknown: operators without a formula that are not known to be light, with how often they were called.
    """

    total: float
    by_operator: dict[str, float]
    unknown: dict[str, float]


class FlopCounter(TorchDispatchMode):
    """Adds up what the operators called inside of it cost. Formulas registered with torch's own
    ``register_flop_formula``, which count a multiply-add as two, are used where `FORMULAS` has none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.by_operator: Counter[str] = Counter()
        self.unknown: Counter[str] = Counter()
        self._is_paused = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not isinstance(func, OpOverload):  # a higher-order operator: a loop, a compiled kernel
            self.unknown[str(func)] += 1
            return func(*args, **kwargs)
        name = func._schema.name
        formula = FORMULAS.get(name) or _formula_of_torch(func)
        if formula is None:
            with self:
                result = func.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        out = func(*args, **kwargs)
        if self._is_paused:
            return out
        if formula is not None:
            self.by_operator[name] += formula(args, kwargs, out)
        elif not is_light(func):
            self.unknown[name] += 1
        return out

    @contextmanager
    def counting_functions(self) -> Iterator[None]:
        """Count the Python functions of `FUNCTIONS` as one operator each."""
        with ExitStack() as stack:
            for module_name, name, formula in FUNCTIONS:
                module = importlib.import_module(module_name)
                wrapped = self._counted(getattr(module, name), name, formula)
                stack.enter_context(mock.patch.object(module, name, wrapped))
            yield

    def _counted(self, function: Any, name: str, formula: Formula) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            self._is_paused = True
            try:
                out = function(*args, **kwargs)
            finally:
                self._is_paused = False
            self.by_operator[name] += formula(args, kwargs, out)
            return out

        return run


def _formula_of_torch(func: OpOverload) -> Formula | None:
    formula = flop_registry.get(func._overloadpacket)
    if formula is None:
        return None
    return lambda args, kwargs, out: formula(*args, **kwargs, out_val=out) // 2


def count_flops(model: nn.Module, inputs: list[dict]) -> FlopCount:
    """One inference of a batch, from images to results."""
    model.eval()
    counter = FlopCounter()
    with torch.no_grad(), counter.counting_functions(), counter:
        model(inputs)
    by_operator = dict(counter.by_operator)
    return FlopCount(sum(by_operator.values()), by_operator, dict(counter.unknown))


def mean_count(counts: Iterable[FlopCount]) -> FlopCount:
    """The mean of several counts."""
    counts = list(counts)

    def mean(parts: Iterable[dict[str, float]]) -> dict[str, float]:
        total: Counter[str] = Counter()
        for part in parts:
            total.update(part)
        return {name: value / len(counts) for name, value in total.most_common()}

    return FlopCount(
        sum(count.total for count in counts) / len(counts),
        mean(count.by_operator for count in counts),
        mean(count.unknown for count in counts),
    )
