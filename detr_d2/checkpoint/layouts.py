"""The key layouts of published checkpoints, one entry of `LAYOUTS` each. A new layout is a new entry.

Each entry lists pairs of name templates, theirs and ours, that are read in both directions. In a template ``{i}``
stands for a number, ``{p}`` for one name without a dot and ``{rest}`` for anything.
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, TypeVar

from detectron2.checkpoint.c2_model_loading import convert_c2_detectron_names
from torch import Tensor

Pairs = tuple[tuple[str, str], ...]
T = TypeVar("T")

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
        rename: replaces ``pairs`` where a program of its own renames; state dict -> state dict.
    """

    name: str
    requires: tuple[str, ...]
    scope: Literal["model", "backbone"]
    pairs: Pairs = ()
    forbids: tuple[str, ...] = ()
    leftovers: tuple[str, ...] = ()
    coco_ids: bool = False
    rename: Callable[[Mapping[str, Tensor]], dict[str, Tensor]] | None = None

    def matches(self, keys: Collection[str]) -> bool:
        """Whether a checkpoint with these keys has this layout."""
        return all(_any_match(pattern, keys) for pattern in self.requires) and not any(
            _any_match(pattern, keys) for pattern in self.forbids
        )

    def to_ours(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state dict under our names; the tensors stay as they are."""
        if self.rename is not None:
            return self.rename(state)
        return _renamed(state, _compile(self.pairs))

    def to_theirs(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `to_ours`, for layouts that consist of ``pairs``."""
        if self.rename is not None:
            raise ValueError(f"Weights cannot be written in the layout of {self.name}.")
        return _renamed(state, _compile(tuple((ours, theirs) for theirs, ours in self.pairs)))

    def is_leftover(self, key: str) -> bool:
        """Whether one of our names belongs to what such checkpoints hold without need."""
        return any(re.search(pattern, key) for pattern in self.leftovers)


def recognise(keys: Collection[str]) -> Layout | None:
    """The first layout that fits a checkpoint's keys; None: not one of ours, Detectron2 may know it."""
    return next((layout for layout in LAYOUTS if layout.matches(keys)), None)


def strip_data_parallel(state: Mapping[str, T]) -> dict[str, T]:
    """The state dict without the ``module.`` that DistributedDataParallel puts before every name."""
    prefix = "module."
    if not all(key.startswith(prefix) for key in state):
        return dict(state)
    return {key[len(prefix) :]: value for key, value in state.items()}


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


def _any_match(pattern: str, keys: Collection[str]) -> bool:
    regex = re.compile(pattern)
    return any(regex.search(key) for key in keys)


@lru_cache
def _compile(pairs: Pairs) -> tuple[tuple[re.Pattern[str], str], ...]:
    return tuple((re.compile(_to_regex(source)), _PLACEHOLDER.sub("{}", target)) for source, target in pairs)


def _to_regex(template: str) -> str:
    literals = _PLACEHOLDER.split(template)
    groups = [_PLACEHOLDERS[name] for name in _PLACEHOLDER.findall(template)]
    return "".join(re.escape(text) + group for text, group in zip(literals, [*groups, ""], strict=True))


def _renamed(state: Mapping[str, Tensor], rules: tuple[tuple[re.Pattern[str], str], ...]) -> dict[str, Tensor]:
    result = {}
    for key, value in state.items():
        name = key
        for pattern, target in rules:
            if match := pattern.fullmatch(key):
                name = target.format(*match.groups())
                break
        if name in result:
            raise ValueError(f"Two tensors of the checkpoint would be named {name}; one of them is {key}.")
        result[name] = value
    return result


def _rename_caffe2(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return convert_c2_detectron_names(state)[0]


CLASSIFIER = (r"(^|\.)(fc|fc1000|linear)\.(weight|bias)$",)

OFFICIAL = Layout(
    name="official DETR",
    requires=(r"^backbone\.0\.body\.", r"^transformer\."),
    scope="model",
    pairs=(*resnet_pairs("backbone.0.body.", "backbone."), ("backbone.1.{rest}", "position_encoding.{rest}")),
    coco_ids=True,
)
PANOPTIC = Layout(
    name="official panoptic DETR",
    requires=(r"^detr\.backbone\.0\.body\.", r"^detr\.transformer\.", r"^mask_head\."),
    scope="model",
    pairs=(
        *resnet_pairs("detr.backbone.0.body.", "backbone."),
        ("detr.backbone.1.{rest}", "position_encoding.{rest}"),
        # Before the last pair, which read from right to left takes any name.
        ("mask_head.{rest}", "mask_head.{rest}"),
        ("bbox_attention.{rest}", "bbox_attention.{rest}"),
        ("detr.{rest}", "{rest}"),
    ),
    coco_ids=True,
)
WRAPPER = Layout(
    name="official DETR for Detectron2",
    requires=(r"^detr\.backbone\.0\.backbone\.", r"^detr\.transformer\."),
    scope="model",
    pairs=(
        ("detr.backbone.0.backbone.{rest}", "backbone.{rest}"),
        ("detr.backbone.1.{rest}", "position_encoding.{rest}"),
        ("detr.{rest}", "{rest}"),
    ),
    leftovers=(r"^criterion\.empty_weight$",),
    coco_ids=True,
)
OURS = Layout(
    name="detr_d2",
    requires=(r"^backbone\.", r"^transformer\.", r"^class_embed\."),
    scope="model",
)
TORCHVISION_RESNET = Layout(
    name="torchvision ResNet",
    requires=(r"^conv1\.weight$", r"^bn1\.weight$", r"^layer1\.0\.conv1\.weight$"),
    scope="backbone",
    pairs=resnet_pairs("", ""),
    leftovers=CLASSIFIER,
)
DETECTRON2_RESNET = Layout(
    name="Detectron2 ResNet",
    requires=(r"^stem\.conv1\.weight$", r"^res2\.0\.conv1\.weight$"),
    scope="backbone",
    leftovers=CLASSIFIER,
)
CAFFE2_RESNET = Layout(
    name="Caffe2 ResNet",
    requires=(r"^conv1_w$", r"^res2_0_branch2a_w$"),
    forbids=(r"rpn", r"^fpn_", r"^bbox_pred", r"^cls_score"),
    scope="backbone",
    leftovers=CLASSIFIER,
    rename=_rename_caffe2,
)

# In the order in which they are tried.
LAYOUTS: tuple[Layout, ...] = (OFFICIAL, PANOPTIC, WRAPPER, OURS, TORCHVISION_RESNET, DETECTRON2_RESNET, CAFFE2_RESNET)
