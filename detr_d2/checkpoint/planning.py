"""What a checkpoint would do to a model, decided from the two state dicts before anything is copied."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .box_model import MASK_STAGE, TRAINING_ONLY, bare_names
from .class_rows import head_rows, is_class_head, keep_objectness, to_contiguous
from .diagnosis import check_shared_heads, explain_misfit
from .layouts import Layout
from .report import LoadReport, group_names

State = Mapping[str, Tensor]

# Counters of BatchNorm: frozen norms have none, and trainable ones start without.
COUNTER = "num_batches_tracked"
# What a ResNet has beyond one that was trained to classify: counters, and the offsets of deformable convolutions.
_UNTRAINED = re.compile(rf"\.{COUNTER}$|\.conv2_offset\.")
_RESNET_KEY = re.compile(r"^((?:.*\.)?)(stem|res[2-5])\.(.+)$")


@dataclass(frozen=True)
class LoadPlan:
    """Attributes: state: the model's names -> tensors to copy. report: what that will have done."""

    state: dict[str, Tensor]
    report: LoadReport

    def renamed(self, names: Mapping[str, str]) -> "LoadPlan":
        """The same plan with other names for some tensors."""
        state = {names.get(key, key): value for key, value in self.state.items()}
        return LoadPlan(state, self.report.renamed(names))


@dataclass(frozen=True)
class _Difference:
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.mismatched)


def plan_load(
    checkpoint: State, model: State, layout: Layout, *, source: str, model_name: str, reinit_class_head: bool = False
) -> LoadPlan:
    """Match a published checkpoint with a model, strictly.

    Args:
        checkpoint: the tensors under the layout's own names.
        model: the model's state dict.
        source, model_name: for messages.
        reinit_class_head: leave a class head whose class count differs at the model's initial values.

    Raises:
        ValueError: any tensor that the checkpoint ought to fill is missing or has another shape, or the checkpoint
            holds more than the model; the message says which cfg key to change.
    """
    report = LoadReport(source=source, layout=layout.name)
    state, names = layout.to_ours(checkpoint), bare_names(model)
    model = {bare: model[name] for bare, name in names.items()}
    if layout.scope == "model":
        plan = _plan_model(state, model, layout, report, model_name, reinit_class_head)
    else:
        has_group_norm = any("_gn_" in key for key in checkpoint)  # Caffe2's; the renamed keys no longer say
        plan = _plan_backbone(state, model, layout, report, model_name, may_be_fused=not has_group_norm)
    return plan.renamed(names)


def resnet_prefixes(model: State) -> dict[str, str]:
    """``stem``, ``res2`` .. ``res5`` -> what the model puts before it, such as ``backbone.bottom_up.``.

    Where a model holds several ResNets, that of its ``backbone`` counts.
    """
    found: dict[str, set[str]] = {}
    for match in filter(None, map(_RESNET_KEY.match, model)):
        found.setdefault(match[2], set()).add(match[1])
    return {
        stage: min(prefixes, key=lambda prefix: (not prefix.startswith("backbone."), len(prefix), prefix))
        for stage, prefixes in found.items()
    }


def _plan_model(
    state: dict[str, Tensor], model: State, layout: Layout, report: LoadReport, model_name: str, reinit_class_head: bool
) -> LoadPlan:
    reindexed: tuple[str, ...] = ()
    if layout.coco_ids and head_rows(state) != head_rows(model):
        before, state = state, to_contiguous(state)
        reindexed = tuple(key for key in state if state[key] is not before[key])
    reinitialized: tuple[str, ...] = ()
    if reinit_class_head and head_rows(state) != head_rows(model):
        kept = keep_objectness(state, model)
        reinitialized, reindexed = tuple(key for key in model if is_class_head(key) and key not in kept), ()
        state = {key: value for key, value in state.items() if not is_class_head(key)} | kept

    # Any weights do without the head that only training has: it is taken where it fits.
    useless = tuple(key for key in state if key.startswith(TRAINING_ONLY) and not _fits(key, state, model))
    state = {key: value for key, value in state.items() if key not in useless}
    untrained = tuple(key for key in model if key.startswith(TRAINING_ONLY) and key not in state)
    if not any(key.startswith(MASK_STAGE) for key in state):  # of the box stage, on which the mask stage is trained
        untrained += tuple(key for key in model if key.startswith(MASK_STAGE))

    ignored = tuple(key for key in state if key not in model and (layout.is_leftover(key) or key.endswith(COUNTER)))
    state = {key: value for key, value in state.items() if key not in ignored}
    expected = [key for key in model if key not in (*reinitialized, *untrained) and not key.endswith(COUNTER)]
    _raise_unless_fits(_compare(state, model, expected), state, model, report, model_name)
    if shared := check_shared_heads(state, model):
        raise ValueError(
            f"{report.source} ({report.layout} layout) does not fit the model; nothing was loaded.\n  - {shared}"
        )
    return LoadPlan(
        state,
        replace(
            report,
            loaded=tuple(state),
            missing=untrained,
            reindexed=reindexed,
            reinitialized=reinitialized,
            ignored=ignored + useless,
        ),
    )


def _fits(key: str, state: State, model: State) -> bool:
    return key in model and model[key].shape == state[key].shape


def _plan_backbone(
    bare: dict[str, Tensor], model: State, layout: Layout, report: LoadReport, model_name: str, may_be_fused: bool
) -> LoadPlan:
    prefixes = resnet_prefixes(model)
    state, ignored, unexpected = {}, [], []
    for key, value in bare.items():
        stage = key.split(".")[0]
        target = prefixes.get(stage, "") + key
        if layout.is_leftover(key) or (key.endswith(COUNTER) and target not in model):
            ignored.append(key)
        elif stage in prefixes:
            state[target] = value
        else:  # a stage that the model does not build
            unexpected.append(key)

    expected = [key for key in model if _is_of_resnet(key, prefixes) and not _UNTRAINED.search(key)]
    if may_be_fused:
        state |= _identity_statistics(state, model, expected, report.source)
    _raise_unless_fits(_compare(state, model, expected), state, model, report, model_name)
    missing = tuple(key for key in model if key not in state and not key.endswith(COUNTER))
    return LoadPlan(
        state,
        replace(report, loaded=tuple(state), missing=missing, unexpected=tuple(unexpected), ignored=tuple(ignored)),
    )


def _is_of_resnet(key: str, prefixes: Mapping[str, str]) -> bool:
    match = _RESNET_KEY.match(key)
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


def _compare(state: State, model: State, expected: list[str]) -> _Difference:
    return _Difference(
        missing=tuple(key for key in expected if key not in state),
        unexpected=tuple(key for key in state if key not in model),
        mismatched=tuple(key for key in state if key in model and state[key].shape != model[key].shape),
    )


def _raise_unless_fits(
    difference: _Difference, state: State, model: State, report: LoadReport, model_name: str
) -> None:
    if not difference:
        return
    hints = explain_misfit(state, model, model_name) or [
        "no cfg key explains it; compare MODEL.* with the config that the weights were trained with (Detectron2's own "
        "checkpointer leaves out tensors of another shape before a model sees them: DetrCheckpointer "
        "says which key they ask for)"
    ]
    lines = [f"{report.source} ({report.layout} layout) does not fit the model; nothing was loaded."]
    lines += [f"  - {hint}" for hint in hints]
    lines += list(_difference_lines(difference, state, model))
    raise ValueError("\n".join(lines))


def _difference_lines(difference: _Difference, state: State, model: State) -> Iterator[str]:
    if difference.missing:
        yield f"  missing in the checkpoint: {group_names(difference.missing)}"
    if difference.unexpected:
        yield f"  not in the model: {group_names(difference.unexpected)}"
    if difference.mismatched:
        key = difference.mismatched[0]
        yield (
            f"  of another shape: {group_names(difference.mismatched)}; {key} is {tuple(state[key].shape)} in the "
            f"checkpoint, {tuple(model[key].shape)} in the model"
        )
