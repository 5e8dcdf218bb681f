"""The facts that a model class states of itself, and how they are read through Detectron2's registry."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY
from torch import nn

# Functions of a model: objects, and the names of their callable attributes.
Calls = Callable[[nn.Module], Sequence[tuple[object, str]]]


def methods(*names: str) -> Calls:
    """The methods of a model with these names, as `ModelFacts.postprocessing` gives them."""
    return lambda model: [(model, name) for name in names]


NO_CALLS = methods()


def itself(model: nn.Module) -> nn.Module:
    """The model, where all of it is the part that a fact asks for."""
    return model


@dataclass(frozen=True)
class ModelFacts:
    """What data, checks, checkpoints, benchmarks and tools must know of a model. Keys are full names in the cfg.

    Everything has a default that claims nothing, so that a model without facts works, with fewer checks.

    Attributes:
        num_classes: key of its number of classes.
        max_objects: key of the most objects that a training image may hold.
        thing_classes: key of the contiguous ids of those classes that are things.
        semantic_classes: key of the number of classes of semantic maps, which it learns from.
        is_panoptic: it returns ``panoptic_seg``. panoptic_key: the key that says so, where not all of its models do.
        box_model: the model that it is built on, whose facts count where its own claim nothing: the key that names it,
            or its registered name.
        weights: regular expressions, for each of which a state dict of this model has a fitting name. A checkpoint is
            taken for the model with the most expressions among those that fit.
        transformers: the ``model_type`` of the counterpart of its box model in Hugging Face's ``transformers``.
        postprocessing: what makes results of its raw outputs.
        heads_in_postprocessing: what that calls although it is a part of the model.
        attention: its part with ``attention_parts``, which `detr_d2.visualization.attention` can draw.
        mask_attention: its masks are made of attention maps, which its `mask_looks` gives.
    """

    num_classes: str = ""
    max_objects: str = ""
    thing_classes: str = ""
    semantic_classes: str = ""
    is_panoptic: bool = False
    panoptic_key: str = ""
    box_model: str = ""
    weights: tuple[str, ...] = ()
    transformers: str = ""
    postprocessing: Calls = NO_CALLS
    heads_in_postprocessing: Calls = NO_CALLS
    attention: Callable[[nn.Module], nn.Module] | None = None
    mask_attention: bool = False

    def upon(self, base: "ModelFacts") -> "ModelFacts":
        """These facts, and those of ``base`` where these claim nothing."""
        nothing = ModelFacts()
        silent = [name for name, value in vars(self).items() if value == getattr(nothing, name)]
        return replace(self, **{name: getattr(base, name) for name in silent})


# Of classes that cannot state them, since they are Detectron2's.
_FOREIGN: dict[type, ModelFacts] = {}


def state_facts(model_class: type, facts: ModelFacts) -> None:
    """State the facts of a class that is not ours, and of what derives from it."""
    _FOREIGN[model_class] = facts


def facts_of(model_class: type) -> ModelFacts:
    """The facts that a class, or the first of its bases that does, states; none claimed where none does."""
    for base in getattr(model_class, "__mro__", ()):
        facts = vars(base).get("facts", _FOREIGN.get(base))
        if isinstance(facts, ModelFacts):
            return facts
    return ModelFacts()


def model_facts(cfg: CfgNode) -> ModelFacts:
    """The facts of the model that ``MODEL.META_ARCHITECTURE`` names, with those of the box model that it is built on.

    No facts are claimed for a name that is not registered: building the model is where that is an error.
    """
    facts = _facts_of_name(cfg.MODEL.META_ARCHITECTURE)
    if facts.panoptic_key:
        facts = replace(facts, is_panoptic=value_of(cfg, facts.panoptic_key))
    return facts.upon(_facts_of_name(box_model_of(cfg))) if facts.box_model else facts


def box_model_of(cfg: CfgNode) -> str:
    """The registered name of the box model that the model of ``cfg`` is built on; "" where it is built on none."""
    name = _facts_of_name(cfg.MODEL.META_ARCHITECTURE).box_model
    return value_of(cfg, name) if "." in name else name


def stated_models() -> Iterator[tuple[str, ModelFacts]]:
    """Name and facts of every registered model that states any."""
    for name, model_class in META_ARCH_REGISTRY:
        facts = facts_of(model_class)
        if facts != ModelFacts():
            yield name, facts


def max_objects_of(cfg: CfgNode) -> int | None:
    """The most objects that an image may hold in training; None where any number may."""
    key = model_facts(cfg).max_objects
    return value_of(cfg, key) if key else None


def value_of(cfg: CfgNode, key: str) -> Any:
    """The value of a key by its full name, such as "MODEL.DETR.NUM_CLASSES"."""
    return reduce(getattr, key.split("."), cfg)


def _facts_of_name(name: str) -> ModelFacts:
    return facts_of(META_ARCH_REGISTRY.get(name)) if name in META_ARCH_REGISTRY else ModelFacts()
