"""The models that have a counterpart elsewhere, and what their random weights need. All else is known from model facts.

This is the one place outside of ``detr_d2/modeling/`` where a model's class decides. A subclass counts as its parent.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from detectron2.config import CfgNode
from detectron2.modeling import META_ARCH_REGISTRY, build_model

from ..checkpoint import DetrCheckpointer, loading_options
from ..facts import box_model_of, model_facts
from ..modeling import DETR, DFINE, FCOS, RTDETR, DeformableDETR, Mask2Former
from .engine_references import OnnxruntimeWorkload, OpenvinoWorkload
from .inputs import Settings, make_inputs
from .random_weights import (
    keep_queries,
    randomize_frozen_norms,
    separate_classes,
    separate_masks,
    separate_queries,
    spread_samples,
    spread_scores,
)
from .torchvision_reference import TorchvisionWorkload
from .transformers_mask2former import Mask2FormerTransformersWorkload
from .transformers_real_time import DFINETransformersWorkload, RTDETRTransformersWorkload
from .transformers_reference import (
    DeformableTransformersWorkload,
    PanopticTransformersWorkload,
    TransformersWorkload,
)
from .workloads import OurWorkload, ReferenceWorkload, Workload

# Programs that run any model that is exported.
ENGINES = {"onnxruntime": OnnxruntimeWorkload, "openvino": OpenvinoWorkload}
REFERENCES = ("none", "transformers", "torchvision", *ENGINES)
Prepare = Callable[[OurWorkload], None]


@dataclass(frozen=True)
class Pairing:
    """What a model is measured beside.

    Attributes:
        reference: of `REFERENCES`. workload: its implementation.
        as_trained: what makes random weights cost what trained ones do, such as a panoptic model's, whose classes ask
            for masks.
        distinct: what makes the outputs of random weights differ, without which equal ones would mean little.
    """

    reference: str = "none"
    workload: type[ReferenceWorkload] | None = None
    as_trained: tuple[Prepare, ...] = ()
    distinct: tuple[Prepare, ...] = ()


# By the class of the box model, and whether the model is panoptic.
PAIRINGS: dict[tuple[type, bool], Pairing] = {
    (DETR, False): Pairing("transformers", TransformersWorkload, distinct=(separate_queries,)),
    (DETR, True): Pairing(
        "transformers", PanopticTransformersWorkload, as_trained=(separate_queries, separate_masks, keep_queries)
    ),
    (DeformableDETR, False): Pairing(
        "transformers", DeformableTransformersWorkload, as_trained=(spread_samples,), distinct=(separate_classes,)
    ),
    (DeformableDETR, True): Pairing(as_trained=(spread_samples,)),
    (RTDETR, False): Pairing("transformers", RTDETRTransformersWorkload, (spread_samples,), (separate_classes,)),
    (DFINE, False): Pairing("transformers", DFINETransformersWorkload, (spread_samples,), (separate_classes,)),
    (Mask2Former, True): Pairing("transformers", Mask2FormerTransformersWorkload, as_trained=(keep_queries,)),
    (FCOS, False): Pairing("torchvision", TorchvisionWorkload, as_trained=(spread_scores,)),
}


def pairing_of(cfg: CfgNode) -> Pairing:
    """The pairing of the model of ``cfg``, or of the first of its bases that has one; nothing where none has."""
    is_panoptic, model = model_facts(cfg).is_panoptic, box_model_of(cfg) or cfg.MODEL.META_ARCHITECTURE
    found = (PAIRINGS.get((base, is_panoptic)) for base in META_ARCH_REGISTRY.get(model).__mro__)
    return next((pairing for pairing in found if pairing), Pairing())


def check_reference(cfg: CfgNode, reference: str) -> None:
    """Raise a ValueError that names the key where the model of ``cfg`` has no such reference, and an ImportError where
    its package is missing.
    """
    if reference == "none":
        return
    if reference in ENGINES:
        ENGINES[reference].check(cfg)
        return
    pairing = pairing_of(cfg)
    if pairing.reference != reference:
        models = [
            f"{'panoptic ' if is_panoptic else ''}{model.__name__}"
            for (model, is_panoptic), other in PAIRINGS.items()
            if other.reference == reference
        ]
        raise ValueError(
            f"--reference {reference} has {', '.join(models)}, but MODEL.META_ARCHITECTURE is "
            f"{cfg.MODEL.META_ARCHITECTURE!r}: use --reference none."
        )
    pairing.workload.check(cfg)


def build_workloads(cfg: CfgNode, settings: Settings) -> dict[str, Workload]:
    """The implementations of ``settings`` by name, all with the same weights, in evaluation mode."""
    ours = build_ours(cfg, settings)
    if settings.reference == "none":
        return {"ours": ours}
    if not cfg.MODEL.WEIGHTS:
        for separate in pairing_of(cfg).distinct:
            separate(ours)
    return {"ours": ours, settings.reference: build_reference(cfg, ours, settings.reference)}


def build_workload(cfg: CfgNode, settings: Settings, name: str) -> Workload:
    """One implementation alone, nothing run yet but what makes random weights cost what trained ones do."""
    ours = build_ours(cfg, settings)
    return ours if name == "ours" else build_reference(cfg, ours, name)


def build_reference(cfg: CfgNode, ours: OurWorkload, reference: str = "") -> ReferenceWorkload:
    """One of `ENGINES`, or the model's own reference; with our weights and on our batch."""
    workload = ENGINES[reference] if reference in ENGINES else pairing_of(cfg).workload
    return workload(cfg, ours.model, ours.inputs)


def build_ours(cfg: CfgNode, settings: Settings) -> OurWorkload:
    """The model of ``cfg`` with the weights that it names, or else random ones, and a random batch."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    model = build_model(cfg).eval()
    ours = OurWorkload(model, make_inputs(cfg, settings))
    if cfg.MODEL.WEIGHTS:
        DetrCheckpointer(model, **loading_options(cfg)).load(cfg.MODEL.WEIGHTS)
        return ours
    randomize_frozen_norms(model, settings.seed)
    for prepare in pairing_of(cfg).as_trained:
        prepare(ours)
    return ours
