"""Which cfg key to change when weights do not fit a model, found from names and shapes alone.

Each check takes the two state dicts under our names and returns what it found. Most are rows of a table.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping

import torch
from torch import Tensor

from ..facts import ModelFacts, stated_models
from ..facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from .class_rows import has_no_object, head_rows
from .layouts.deformable import has_shared_heads
from .layouts.layout import any_match

State = Mapping[str, Tensor]
Value = int | str | None

_BLOCK = re.compile(r"(?:^|\.)res([2-5])\.(\d+)\.")


def _size(name: str, dim: int) -> Callable[[State], Value]:
    """The size of one dimension of a tensor."""

    def value(state: State) -> int | None:
        shape = state[name].shape if name in state else ()
        return shape[dim] if dim < len(shape) else None

    return value


def _count(pattern: str) -> Callable[[State], Value]:
    """How many modules there are; the regular expression's group is their index."""
    regex = re.compile(pattern)
    return lambda state: len({match[1] for match in map(regex.search, state) if match})


def _either(pattern: str, with_tensors: str, without: str) -> Callable[[State], Value]:
    """A value that decides whether tensors exist."""
    return lambda state: with_tensors if any_match(pattern, state) else without


def _num_classes(state: State) -> int | None:
    rows = head_rows(state)
    return rows - 1 if rows and has_no_object(state) else rows


# What to set, where {} is the value that the function finds in the weights, and another one in the model; and what
# else could be done.
_Rules = tuple[tuple[str, Callable[[State], Value]], ...]

_OTHER_CLASSES = "{}, or MODEL.REINIT_CLASS_HEAD True to train a new head"
_OTHER_QUERIES = "MODEL.DETR.NUM_OBJECT_QUERIES {}, or MODEL.REINIT_QUERIES True to train new ones"
_TRANSFORMER_RULES: _Rules = (
    (_OTHER_QUERIES, _size("query_embed.weight", 0)),
    (_OTHER_QUERIES, _size("transformer.query_selection.query_embed.weight", 0)),
    ("MODEL.DETR.HIDDEN_DIM {}", _size("query_embed.weight", 1)),
    ("MODEL.DETR.HIDDEN_DIM {}", _size("transformer.level_embed", 1)),
    ("MODEL.DETR.DIM_FEEDFORWARD {}", _size("transformer.decoder.layers.0.linear1.weight", 0)),
    ("MODEL.DETR.ENC_LAYERS {}", _count(r"^transformer\.encoder\.layers\.(\d+)\.")),
    ("MODEL.DETR.DEC_LAYERS {}", _count(r"^transformer\.decoder\.layers\.(\d+)\.")),
    ("MODEL.DETR.POSITION_EMBEDDING {}", _either(r"^position_encoding\.row_embed\.", "learned", "sine")),
    ("MODEL.DETR.PRE_NORM {}", _either(r"^transformer\.encoder\.norm\.", "True", "False")),
    ("MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS {}", _size("transformer.level_embed", 0)),
    (
        "MODEL.DEFORMABLE_DETR.QUERY_SELECTION {}",
        _either(r"^transformer\.query_selection\.enc_output\.", "TwoStageQueries", "LearnedQueries"),
    ),
    (f"MODEL.DETR.NUM_CLASSES {_OTHER_CLASSES}", _num_classes),
)
_POINT_RULES: _Rules = tuple(
    (
        f"MODEL.DETR.NHEADS and MODEL.DEFORMABLE_DETR.{stack[:3].upper()}_POINTS to what makes {{}} points in all "
        f"(heads x levels x points) for the {stack}'s attention",
        _size(f"transformer.{stack}.layers.0.{attention}.attention_weights.bias", 0),
    )
    for stack, attention in (("encoder", "self_attn"), ("decoder", "cross_attn"))
)
_FCOS_RULES: _Rules = (
    ("MODEL.FPN.OUT_CHANNELS {}", _size("head.cls_logits.weight", 1)),
    ("MODEL.FCOS.IN_FEATURES, of which there are {}", _count(r"^head\.scales\.(\d+)\.")),
    ("MODEL.FCOS.DEFORM_IN_TOWER {}", _either(r"^head\.cls_tower\.\d+\.offset\.", "True", "False")),
    (
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE {}",
        _either(r"\.conv2_offset\.", "[False, True, True, True]", "[False] * 4"),
    ),
    ("MODEL.FCOS.NUM_CONVS {}", lambda state: sum(bool(_FCOS_CONV.match(k)) and state[k].dim() == 4 for k in state)),
    (f"MODEL.FCOS.NUM_CLASSES {_OTHER_CLASSES}", head_rows),
)
_FCOS_CONV = re.compile(r"^head\.cls_tower\.(?!.*offset\.).*weight$")
_RESNET_RULES: _Rules = (
    ("MODEL.RESNETS.NORM {}", _either(r"^backbone\..*\.running_var$", "FrozenBN", "GN")),
    ("MODEL.RESNETS.STEM_OUT_CHANNELS {}", _size("backbone.stem.conv1.weight", 0)),
    ("MODEL.RESNETS.RES2_OUT_CHANNELS {}", _size("backbone.res2.0.conv3.weight", 0)),
)


def explain_misfit(checkpoint: State, model: State, model_name: str) -> list[str]:
    """Say in sentences what to change so that a checkpoint fits.

    Args:
        checkpoint: our names -> tensors (only their shapes count).
        model: the model's state dict.
        model_name: its class, for a model of an unknown kind.

    Returns:
        One sentence a cause, naming a cfg key and its value; empty where no check knows the cause.
    """
    wrong_family = check_family(checkpoint, model, model_name)
    if wrong_family:
        return [wrong_family]  # whatever else differs follows from it
    found = list(_check_backbone(checkpoint, model))
    if any(key.startswith("transformer.") for key in checkpoint):  # else the weights are a backbone's alone
        found += _check_tables(checkpoint, model, _TRANSFORMER_RULES)
        found += [] if found else _check_tables(checkpoint, model, _POINT_RULES)
        if not any("MODEL.RESNETS" in text for text in found):
            found += filter(None, [_check_in_feature(checkpoint, model)])
    if any(key.startswith("head.cls_tower.") for key in checkpoint):
        found += _check_tables(checkpoint, model, _FCOS_RULES)
    return found


def check_family(checkpoint: Collection[str], model: Collection[str], model_name: str) -> str | None:
    """A sentence if the weights are of another registered meta-architecture than the model, or than a base of it."""
    box, panoptic = (_best_fit(checkpoint, panoptic=panoptic) for panoptic in (False, True))
    our_box, our_panoptic = (_best_fit(model, panoptic=panoptic) for panoptic in (False, True))
    if _is_kind_of(our_box, box) and _is_kind_of(our_panoptic, panoptic):
        return None  # also where a panoptic model starts from the weights of its box model
    name, facts = panoptic or box
    settings = [f"MODEL.META_ARCHITECTURE {name}"]
    if panoptic and box and "." in facts.box_model:  # the key that names it
        settings.append(f"{facts.box_model} {box[0]}")
    elif our_panoptic and "." in our_panoptic[1].box_model:
        settings = [f"{our_panoptic[1].box_model} {name}"]
    return f"the weights are of a {name}, the model is a {model_name}; set {' and '.join(settings)}"


def check_shared_heads(checkpoint: State, model: State) -> str | None:
    """A sentence if decoder layers share their heads in one of two Deformable DETRs, and not in the other.

    Names and shapes do not say: both hold the heads once a layer.
    """
    names = [f"bbox_embed.{i}.layers.0.weight" for i in (0, 1)]
    if not all(name in state for name in names for state in (checkpoint, model)):
        return None
    theirs, ours = has_shared_heads(checkpoint), model[names[0]].data_ptr() == model[names[1]].data_ptr()
    if any(key.startswith("transformer.decoder.ref_point_head.") for key in model):  # DINO, whose heads start alike
        if not ours or torch.equal(*(checkpoint[name] for name in names)):
            return None
        return "the weights' decoder layers have heads of their own; set MODEL.DINO.SHARE_HEADS False"
    if theirs == ours:
        return None
    found = "share one pair of heads" if theirs else "have heads of their own"
    return f"the weights' decoder layers {found}; set MODEL.DEFORMABLE_DETR.BOX_REFINE {not theirs}"


def resnet_depth(keys: Collection[str]) -> int | None:
    """The depth of the ResNet among the keys, from its block counts; None if there is none of a known depth."""
    counts = _blocks(keys)
    fits = (
        depth
        for depth, blocks in BLOCKS_PER_STAGE.items()
        if has_bottlenecks(depth) == _has_bottlenecks(keys)
        and all(blocks[stage - 2] == count for stage, count in counts.items())
    )
    return next(fits, None) if counts else None


def _best_fit(keys: Collection[str], *, panoptic: bool) -> tuple[str, ModelFacts] | None:
    """Name and facts of the registered model that names of tensors are most likely of; None where they fit none."""
    fits = (
        (name, facts)
        for name, facts in stated_models()
        if facts.weights and facts.is_panoptic == panoptic and all(any_match(p, keys) for p in facts.weights)
    )
    return max(fits, key=lambda fit: len(fit[1].weights), default=None)


def _is_kind_of(model: tuple[str, ModelFacts] | None, base: tuple[str, ModelFacts] | None) -> bool:
    """Whether everything that identifies weights of ``base`` identifies those of ``model``, too."""
    return base is None or (model is not None and set(base[1].weights) <= set(model[1].weights))


def _blocks(keys: Collection[str]) -> dict[int, int]:
    """Stage number -> blocks."""
    blocks: dict[int, int] = {}
    for match in filter(None, map(_BLOCK.search, keys)):
        stage, index = int(match[1]), int(match[2])
        blocks[stage] = max(blocks.get(stage, 0), index + 1)
    return blocks


def _has_bottlenecks(keys: Collection[str]) -> bool:
    return any(_BLOCK.search(key) and ".conv3." in key for key in keys)


def _check_depth(checkpoint: State, model: State) -> str | None:
    blocks, model_blocks = _blocks(checkpoint), _blocks(model)
    depth, model_depth = resnet_depth(checkpoint), resnet_depth(model)
    if blocks and not model_blocks:
        return "the weights hold a ResNet, the model none; change MODEL.BACKBONE.NAME"
    same_counts = all(model_blocks[stage] == blocks[stage] for stage in blocks.keys() & model_blocks.keys())
    if same_counts and _has_bottlenecks(checkpoint) == _has_bottlenecks(model):
        return None
    if depth is None:
        return f"the weights' ResNet has {blocks} blocks, the model's {model_blocks}; change MODEL.RESNETS.DEPTH"
    return f"the weights are of a ResNet-{depth}; set MODEL.RESNETS.DEPTH {depth} (the model has {model_depth})"


def _check_backbone(checkpoint: State, model: State) -> Iterator[str]:
    depth = _check_depth(checkpoint, model)
    if depth:
        yield depth  # channel counts follow from it
        return
    found = list(_check_tables(checkpoint, model, _RESNET_RULES))
    yield from found or filter(None, [_check_channels(checkpoint, model)])


def _check_tables(checkpoint: State, model: State, rules: _Rules) -> Iterator[str]:
    for setting, value in rules:
        theirs, ours = value(checkpoint), value(model)
        if None not in (theirs, ours) and theirs != ours:
            setting, comma, otherwise = setting.format(theirs).partition(", or ")
            yield f"set {setting} (the model has {ours}){comma}{otherwise}"


def _check_channels(checkpoint: State, model: State) -> str | None:
    common = (key for key in checkpoint.keys() & model.keys() if _BLOCK.search(key))
    if all(checkpoint[key].shape == model[key].shape for key in common):
        return None
    return (
        "the backbone's channels differ; compare MODEL.RESNETS.RES2_OUT_CHANNELS, STEM_OUT_CHANNELS, NUM_GROUPS and "
        "WIDTH_PER_GROUP with the weights' config"
    )


def _check_in_feature(checkpoint: State, model: State) -> str | None:
    multi = "input_proj.0.0.weight" in model
    name, key = (
        ("input_proj.0.0.weight", "DEFORMABLE_DETR.IN_FEATURES") if multi else ("input_proj.weight", "DETR.IN_FEATURE")
    )
    stages, model_stages = (f"res{max(_blocks(state), default=0)}" for state in (checkpoint, model))
    if stages != model_stages and "res0" not in (stages, model_stages):
        return (
            f"the weights' backbone ends with {stages}, the model's with {model_stages}; set "
            f'MODEL.RESNETS.OUT_FEATURES ["{stages}"] and MODEL.{key} "{stages}"'
        )
    if name in checkpoint and name in model and checkpoint[name].shape[1:] != model[name].shape[1:]:
        theirs, ours = checkpoint[name].shape[1], model[name].shape[1]
        return f"input_proj reads {theirs} channels in the weights, {ours} in the model; change MODEL.{key}"
    return None
