"""How a layout of keys is described.

A layout lists pairs of name templates, theirs and ours, that are read in both directions. In a template ``{i}``
stands for a number, ``{p}`` for one name without a dot, ``{rest}`` for anything and ``{a|b}`` for either.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor

from ..names import as_held, bare_names, bare_state

Pairs = tuple[tuple[str, str], ...]

_PLACEHOLDER = re.compile(r"\{([^}]*)\}")
_PATTERNS = {"i": r"\d+", "p": r"[^.]+", "rest": r".+"}


@dataclass(frozen=True)
class Layout:
    """How one program names its tensors; see `detr_d2.checkpoint.names` for what all names lack here.

    Attributes:
        name: for messages.
        requires: regular expressions, each of which must match some key of the checkpoint.
        forbids: regular expressions that must not match any key.
        pairs: name templates (theirs, ours); the first that matches counts; names that match none stay.
        scope: "model": a whole detection model that must fit in full. "backbone": only a backbone, without a prefix.
        parts: of a backbone, a regular expression of what its names start with.
        leftovers: regular expressions of our names that such checkpoints hold and that no model needs.
        coco_ids: class rows may be indexed by COCO category id.
        aliases: state dict under their names -> what they hold a second time under another name.
        note: what of a model such a checkpoint does not say, for whoever loads it.
        rename, rename_back: replace ``pairs`` where a program of its own renames; state dict -> state dict.
    """

    name: str
    requires: tuple[str, ...]
    scope: Literal["model", "backbone"] = "model"
    parts: str = r"stem|res[2-5]"
    pairs: Pairs = ()
    forbids: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    coco_ids: bool = False
    aliases: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    note: str = ""
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None
    rename_back: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def matches(self, keys: Collection[str]) -> bool:
        """Whether a checkpoint with these keys has this layout."""
        keys = bare_names(keys)
        return all(any_match(pattern, keys) for pattern in self.requires) and not any(
            any_match(pattern, keys) for pattern in self.forbids
        )

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict under our bare names; the tensors stay as they are."""
        state = bare_state(state)
        return renamed(state, self.pairs) if self.rename is None else self.rename(state)

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_ours`, for layouts that consist of ``pairs`` or can rename back."""
        if self.rename_back is not None:
            return as_held(self.rename_back(state))
        if self.rename is not None:
            raise ValueError(f"Weights cannot be written in the layout of {self.name}.")
        state = renamed(state, inverse(self.pairs))
        return as_held(state if self.aliases is None else state | self.aliases(state))

    def is_leftover(self, key: str) -> bool:
        """Whether one of our names belongs to what such checkpoints hold without need."""
        return any(re.search(pattern, key) for pattern in self.leftovers)


def resnet_pairs(theirs: str, ours: str = "backbone.") -> Pairs:
    """torchvision's names of a ResNet after the prefix ``theirs``, Detectron2's after the prefix ``ours``."""
    stem = (("conv1.{p}", "stem.conv1.{p}"), ("bn1.{p}", "stem.conv1.norm.{p}"))
    block = (
        ("conv{i}.{p}", "conv{i}.{p}"),
        ("bn{i}.{p}", "conv{i}.norm.{p}"),
        ("downsample.0.{p}", "shortcut.{p}"),
        ("downsample.1.{p}", "shortcut.norm.{p}"),
    )
    blocks = [(f"layer{i}.{{i}}.{their}", f"res{i + 1}.{{i}}.{our}") for i in range(1, 5) for their, our in block]
    return tuple((theirs + their, ours + our) for their, our in (*stem, *blocks))


def inverse(pairs: Pairs) -> Pairs:
    """The pairs the other way round."""
    return tuple((ours, theirs) for theirs, ours in pairs)


def any_match(pattern: str, keys: Collection[str]) -> bool:
    """Whether a regular expression fits some of the names."""
    regex = re.compile(pattern)
    return any(regex.search(key) for key in keys)


@lru_cache
def _compile(pairs: Pairs) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(_to_regex(source)), _PLACEHOLDER.sub("{}", target)) for source, target in pairs)


def _to_regex(template: str) -> str:
    literal, *rest = _PLACEHOLDER.split(template)
    groups = (f"({_PATTERNS.get(name, name)})" for name in rest[::2])
    return re.escape(literal) + "".join(group + re.escape(text) for group, text in zip(groups, rest[1::2], strict=True))


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


def unstacked(state: Mapping[str, Tensor], whole: str, parts: str) -> dict[str, Tensor]:
    """The inverse of `stacked`: ``whole`` is a regular expression with groups for the module and for weight or bias,
    ``parts`` a name with places for the module, for q, k or v, and for weight or bias.
    """
    result = {}
    for name, value in state.items():
        match = re.fullmatch(whole, name)
        if match is None:
            result[name] = value
            continue
        names = [parts.format(match[1], part, match[2]) for part in "qkv"]
        result |= dict(zip(names, value.chunk(3), strict=True))
    return result


def stacked(state: Mapping[str, Tensor], parts: str, whole: str) -> dict[str, Tensor]:
    """The state dict with projections to queries, keys and values in one.

    Args:
        parts: a regular expression of their names, with groups for the module, for q, k or v, and for weight or bias.
        whole: the name of what they become, with places for the first group and the last.

    Raises:
        ValueError: one of the three is missing.
    """
    result: dict[str, Tensor] = {}
    found: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if match := re.fullmatch(parts, name):
            found.setdefault(whole.format(match[1], match[3]), {})[match[2]] = value
        else:
            result[name] = value
    for name, values in found.items():
        missing = [part for part in "qkv" if part not in values]
        if missing:
            raise ValueError(f"The checkpoint lacks the {missing[0]}_proj of {name.rpartition('.')[0]} (our name).")
        result[name] = torch.cat([values[part] for part in "qkv"])
    return result
