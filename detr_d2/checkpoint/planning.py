"""What a checkpoint would do to a model, decided from the two state dicts before anything is copied."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import torch
from detectron2.config import CfgNode
from torch import Tensor

from .class_rows import head_rows, is_class_head, keep_objectness, to_contiguous
from .diagnosis import check_shared_heads, explain_misfit
from .layouts import recognise
from .layouts.layout import Layout
from .names import COUNTER, LABEL_EMBEDDING, MASK_STAGE, TRAINING_ONLY, bare_names, has_mask_stage
from .report import LoadReport, group_names

State = Mapping[str, Tensor]

# What a ResNet has beyond one that was trained to classify: counters, and the offsets of deformable convolutions.
_UNTRAINED = re.compile(rf"\.{COUNTER}$|\.conv2_offset\.")
# Parts of a model that new ones may replace -> which of our names belong to them.
REINIT: dict[str, Callable[[str], bool]] = {
    "class_head": lambda key: is_class_head(key) or key == LABEL_EMBEDDING,
    "queries": lambda key: "query_embed." in key or "query_feat." in key,
}


def reinit_parts(cfg: CfgNode) -> list[str]:
    """The parts of `REINIT` that a cfg wants anew where the weights have others (``MODEL.REINIT_CLASS_HEAD``, ...)."""
    return [part for part in REINIT if cfg.MODEL[f"REINIT_{part.upper()}"]]


@dataclass(frozen=True)
class LoadPlan:
    """Attributes: layout: of the checkpoint. state: the model's names -> tensors to copy. report: what that will have
    done.
    """

    layout: Layout
    state: dict[str, Tensor]
    report: LoadReport


def plan_load(
    checkpoint: State, model: State, *, source: str, model_name: str, reinit: Collection[str] = ()
) -> LoadPlan | None:
    """Match a published checkpoint with a model, strictly.

    Args:
        checkpoint: the tensors under the names of any layout, without those of wrappers (`names.unwrapped`).
        model: the model's state dict.
        source, model_name: for messages.
        reinit: the parts of `REINIT` that stay at the model's initial values where they differ.

    Returns:
        None: the layout is not known here, or it is a backbone's and the model has none such.

    Raises:
        ValueError: any tensor that the checkpoint ought to fill is missing or has another shape, or the checkpoint
            holds more than the model; the message says which cfg key to change.
    """
    layout, names = recognise(checkpoint), bare_names(model)
    if layout is None or (layout.scope == "backbone" and not backbone_prefixes(names, layout)):
        return None
    state = layout.to_ours(checkpoint)
    model = {bare: model[name] for bare, name in names.items()}
    report = LoadReport(source=source, layout=layout.name, note=layout.note)
    if layout.scope == "model":
        state, report = _plan_model(state, model, layout, report, model_name, reinit)
    else:
        has_group_norm = any("_gn_" in key for key in checkpoint)  # Caffe2's; the renamed keys no longer say
        state, report = _plan_backbone(state, model, layout, report, model_name, may_be_fused=not has_group_norm)
    return LoadPlan(layout, {names.get(key, key): value for key, value in state.items()}, report.renamed(names))


def backbone_prefixes(model: Collection[str], layout: Layout) -> dict[str, str]:
    """Part of the backbone, such as ``stem`` or ``res2`` -> what the model puts before it, such as
    ``backbone.bottom_up.``.

    Where a model holds several that are named so, that of its ``backbone`` counts.
    """
    found: dict[str, set[str]] = {}
    for match in filter(None, (_part_of(key, layout) for key in model)):
        found.setdefault(match[2], set()).add(match[1])
    return {
        part: min(prefixes, key=lambda prefix: (not prefix.startswith("backbone."), len(prefix), prefix))
        for part, prefixes in found.items()
    }


def _part_of(key: str, layout: Layout) -> re.Match[str] | None:
    """Prefix and part of a backbone's name."""
    return re.match(rf"^((?:.*\.)?)({layout.parts})\.", key)


def _plan_model(
    state: dict[str, Tensor], model: State, layout: Layout, report: LoadReport, model_name: str, reinit: Collection[str]
) -> tuple[dict[str, Tensor], LoadReport]:
    reindexed: list[str] = []
    if layout.coco_ids and head_rows(state) != head_rows(model):
        before, state = state, to_contiguous(state)
        reindexed = [key for key in state if state[key] is not before[key]]
    reinitialized: list[str] = []
    for part in reinit:
        own = [key for key in model if REINIT[part](key)]
        if not all(fits(key, state, model) for key in own):
            kept = keep_objectness(state, model) if part == "class_head" else {}
            state = {key: value for key, value in state.items() if not REINIT[part](key)} | kept
            reinitialized += [key for key in own if key not in kept]
    reindexed = [key for key in reindexed if key not in reinitialized]

    # Any weights do without what only training has: it is taken where it fits.
    only_training = (*TRAINING_ONLY, LABEL_EMBEDDING)
    useless = [key for key in state if key.startswith(only_training) and not fits(key, state, model)]
    untrained = [key for key in model if key.startswith(only_training) and (key not in state or key in useless)]
    if not has_mask_stage(state):  # of the box stage, on which the mask stage is trained
        untrained += [key for key in model if key.startswith(MASK_STAGE)]
    useless += [key for key in state if key not in model and (layout.is_leftover(key) or key.endswith(COUNTER))]
    state = {key: value for key, value in state.items() if key not in useless}
    expected = [key for key in model if key not in (*reinitialized, *untrained) and not key.endswith(COUNTER)]
    _raise_unless_fits(state, model, expected, report, model_name)
    return state, replace(
        report,
        loaded=tuple(state),
        missing=tuple(untrained),
        reindexed=tuple(reindexed),
        reinitialized=tuple(reinitialized),
        ignored=tuple(useless),
    )


def fits(key: str, state: State, model: State) -> bool:
    """Whether both have it, of one shape."""
    return key in state and key in model and model[key].shape == state[key].shape


def _plan_backbone(
    bare: dict[str, Tensor], model: State, layout: Layout, report: LoadReport, model_name: str, *, may_be_fused: bool
) -> tuple[dict[str, Tensor], LoadReport]:
    prefixes = backbone_prefixes(model, layout)
    state, ignored, unexpected = {}, [], []
    for key, value in bare.items():
        match = _part_of(key, layout)
        prefix = prefixes.get(match[2]) if match else None
        target = (prefix or "") + key
        if layout.is_leftover(key) or (key.endswith(COUNTER) and target not in model):
            ignored.append(key)
        elif prefix is not None:
            state[target] = value
        else:  # a stage that the model does not build
            unexpected.append(key)

    expected = [key for key in model if _is_of(key, layout, prefixes) and not _UNTRAINED.search(key)]
    if may_be_fused:
        state |= _identity_statistics(state, model, expected, report.source)
    _raise_unless_fits(state, model, expected, report, model_name)
    missing = tuple(key for key in model if key not in state and not key.endswith(COUNTER))
    return state, replace(
        report, loaded=tuple(state), missing=missing, unexpected=tuple(unexpected), ignored=tuple(ignored)
    )


def _is_of(key: str, layout: Layout, prefixes: Mapping[str, str]) -> bool:
    match = _part_of(key, layout)
    return match is not None and prefixes[match[2]] == match[1]


def _identity_statistics(state: State, model: State, expected: list[str], source: str) -> dict[str, Tensor]:
    """Means 0 and variances 1 for weights whose norms were fused into scale and shift (Caffe2's)."""
    statistics = {key for key in expected if key.endswith(("running_mean", "running_var"))}
    if any(key in state for key in statistics):
        return {}  # not fused: whatever is missing is an error
    trainable = [key for key in statistics if f"{key.rpartition('.')[0]}.{COUNTER}" in model]
    if trainable:
        raise ValueError(
            f"{source} holds norms without running statistics, fused into scale and shift, but the model's BatchNorms "
            f'would compute new ones: set MODEL.RESNETS.NORM "FrozenBN" (found {group_names(trainable, 2)}).'
        )
    return {
        key: torch.zeros_like(model[key]) if key.endswith("mean") else torch.ones_like(model[key])
        for key in sorted(statistics)
    }


def _raise_unless_fits(
    state: State, model: State, expected: Collection[str], report: LoadReport, model_name: str
) -> None:
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in model]
    mismatched = [key for key in state if key in model and not fits(key, state, model)]
    if missing or unexpected or mismatched:
        hints = explain_misfit(state, model, model_name) or [
            "no cfg key explains it; compare MODEL.* with the config that the weights were trained with (Detectron2's "
            "own checkpointer leaves out tensors of another shape before a model sees them: DetrCheckpointer says "
            "which key they ask for)"
        ]
    elif not (hints := list(filter(None, [check_shared_heads(state, model)]))):
        return
    lines = [f"{report.source} ({report.layout} layout) does not fit the model; nothing was loaded."]
    lines += [f"  - {hint}" for hint in hints]
    lines += [f"  missing in the checkpoint: {group_names(missing)}"] if missing else []
    lines += [f"  not in the model: {group_names(unexpected)}"] if unexpected else []
    if mismatched:
        key = mismatched[0]
        lines.append(
            f"  of another shape: {group_names(mismatched)}; {key} is {tuple(state[key].shape)} in the checkpoint, "
            f"{tuple(model[key].shape)} in the model"
        )
    raise ValueError("\n".join(lines))
