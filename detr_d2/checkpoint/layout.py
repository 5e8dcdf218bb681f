"""How a layout of keys is described.

A layout lists pairs of name templates, theirs and ours, that are read in both directions. In a template ``{i}``
stands for a number, ``{p}`` for one name without a dot and ``{rest}`` for anything.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from torch import Tensor

Pairs = tuple[tuple[str, str], ...]

_PLACEHOLDERS = {"{i}": r"(\d+)", "{p}": r"([^.]+)", "{rest}": r"(.+)"}
_PLACEHOLDER = re.compile("|".join(re.escape(name) for name in _PLACEHOLDERS))


@dataclass(frozen=True)
class Layout:
    """How one program names its tensors.

    Attributes:
        name: for messages.
        requires: regular expressions, each of which must match some key of the checkpoint.
        forbids: regular expressions that must not match any key.
        pairs: name templates (theirs, ours); the first that matches counts; names that match none stay.
        scope: "model": a whole detection model that must fit in full. "backbone": only a ResNet, without a prefix.
        leftovers: regular expressions of our names that such checkpoints hold and that no model needs.
        coco_ids: class rows may be indexed by COCO category id.
        aliases: state dict under their names -> what they hold a second time under another name.
        rename: replaces ``pairs`` where a program of its own renames; state dict -> state dict.
    """

    name: str
    requires: tuple[str, ...]
    scope: Literal["model", "backbone"]
    pairs: Pairs = ()
    forbids: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    coco_ids: bool = False
    aliases: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def matches(self, keys: Collection[str]) -> bool:
        """Whether a checkpoint with these keys has this layout."""
        return all(any_match(pattern, keys) for pattern in self.requires) and not any(
            any_match(pattern, keys) for pattern in self.forbids
        )

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict under our names; the tensors stay as they are."""
        if self.rename is not None:
            return self.rename(state)
        return renamed(state, self.pairs)

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_ours`, for layouts that consist of ``pairs``."""
        if self.rename is not None:
            raise ValueError(f"Weights cannot be written in the layout of {self.name}.")
        state = renamed(state, tuple((ours, theirs) for theirs, ours in self.pairs))
        return state if self.aliases is None else state | self.aliases(state)

    def is_leftover(self, key: str) -> bool:
        """Whether one of our names belongs to what such checkpoints hold without need."""
        return any(re.search(pattern, key) for pattern in self.leftovers)


def resnet_pairs(theirs: str, ours: str) -> Pairs:
    """torchvision's names of a ResNet after the prefix ``theirs``, Detectron2's after the prefix ``ours``."""
    pairs = [
        (f"{theirs}conv1.{{p}}", f"{ours}stem.conv1.{{p}}"),
        (f"{theirs}bn1.{{p}}", f"{ours}stem.conv1.norm.{{p}}"),
    ]
    for stage in range(1, 5):
        block, our_block = f"{theirs}layer{stage}.{{i}}", f"{ours}res{stage + 1}.{{i}}"
        for conv in range(1, 4):
            pairs.append((f"{block}.conv{conv}.{{p}}", f"{our_block}.conv{conv}.{{p}}"))
            pairs.append((f"{block}.bn{conv}.{{p}}", f"{our_block}.conv{conv}.norm.{{p}}"))
        pairs.append((f"{block}.downsample.0.{{p}}", f"{our_block}.shortcut.{{p}}"))
        pairs.append((f"{block}.downsample.1.{{p}}", f"{our_block}.shortcut.norm.{{p}}"))
    return tuple(pairs)


def any_match(pattern: str, keys: Collection[str]) -> bool:
    """Whether a regular expression fits some of the names."""
    regex = re.compile(pattern)
    return any(regex.search(key) for key in keys)


@lru_cache
def _compile(pairs: Pairs) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(_to_regex(source)), _PLACEHOLDER.sub("{}", target)) for source, target in pairs)


def _to_regex(template: str) -> str:
    literals = _PLACEHOLDER.split(template)
    groups = [_PLACEHOLDERS[name] for name in _PLACEHOLDER.findall(template)]
    return "".join(re.escape(text) + group for text, group in zip(literals, [*groups, ""], strict=True))


def renamed(state: Mapping[str, Tensor], pairs: Pairs) -> dict[str, Tensor]:
    """The state dict with every name that fits the left of a pair as its right says.

    Raises:
        ValueError: two tensors would get one name.
    """
    result = {}
    for key, value in state.items():
        name = key
        for pattern, target in _compile(pairs):
            if match := pattern.fullmatch(key):
                name = target.format(*match.groups())
                break
        if name in result:
            raise ValueError(f"Two tensors of the checkpoint would be named {name}; one of them is {key}.")
        result[name] = value
    return result
