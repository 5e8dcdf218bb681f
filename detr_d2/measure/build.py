"""The implementations of a benchmark, all with the same weights and on the same batch."""

from collections.abc import Callable

from detectron2.config import CfgNode
from detectron2.modeling import build_model

from ..checkpoint import DetrCheckpointer
from .deformable_reference import DeformableReferenceWorkload
from .inputs import make_inputs
from .random_weights import (
    keep_queries,
    randomize_frozen_norms,
    separate_classes,
    separate_masks,
    separate_queries,
    spread_samples,
    spread_scores,
)
from .settings import Settings
from .torchvision_reference import TorchvisionWorkload
from .transformers_workloads import PanopticReferenceWorkload, ReferenceWorkload
from .workloads import OurWorkload, Workload

# By meta-architecture: its counterpart in the reference;
REFERENCE_WORKLOADS: dict[str, type[Workload]] = {
    "DETR": ReferenceWorkload,
    "PanopticDETR": PanopticReferenceWorkload,
    "DeformableDETR": DeformableReferenceWorkload,
    "FCOS": TorchvisionWorkload,
}
# what makes random weights cost what trained ones do, such as a panoptic model's, whose classes ask for masks;
AS_TRAINED: dict[str, tuple[Callable[[OurWorkload], None], ...]] = {
    "PanopticDETR": (separate_queries, separate_masks, keep_queries),
    "DeformableDETR": (spread_samples,),
    "FCOS": (spread_scores,),
}
# and what makes their outputs differ, without which equal ones would mean little.
DISTINCT: dict[str, tuple[Callable[[OurWorkload], None], ...]] = {
    "DETR": (separate_queries,),
    "DeformableDETR": (separate_classes,),
}


def build_workloads(cfg: CfgNode, settings: Settings) -> dict[str, Workload]:
    """The implementations of ``settings`` by name, all with the same weights, in evaluation mode."""
    ours = build_ours(cfg, settings)
    if settings.reference == "none":
        return {"ours": ours}
    if not cfg.MODEL.WEIGHTS:
        for separate in DISTINCT.get(cfg.MODEL.META_ARCHITECTURE, ()):
            separate(ours)
    return {"ours": ours, settings.reference: build_reference_workload(cfg, ours)}


def build_workload(cfg: CfgNode, settings: Settings, name: str) -> Workload:
    """One implementation alone, nothing run yet but what `AS_TRAINED` runs."""
    ours = build_ours(cfg, settings)
    return ours if name == "ours" else build_reference_workload(cfg, ours)


def build_reference_workload(cfg: CfgNode, ours: OurWorkload) -> Workload:
    """``transformers``' or torchvision's model with our weights, on our batch."""
    return REFERENCE_WORKLOADS[cfg.MODEL.META_ARCHITECTURE](cfg, ours.model, ours.inputs)


def build_ours(cfg: CfgNode, settings: Settings) -> OurWorkload:
    """The model of ``cfg`` with the weights that it names, or else random ones, and a random batch."""
    settings.prepare_process()
    model = build_model(cfg).eval()
    if cfg.MODEL.WEIGHTS:
        DetrCheckpointer(model, reinit_class_head=cfg.MODEL.REINIT_CLASS_HEAD).load(cfg.MODEL.WEIGHTS)
        return OurWorkload(model, make_inputs(cfg, settings))
    randomize_frozen_norms(model, settings.seed)
    ours = OurWorkload(model, make_inputs(cfg, settings))
    for prepare in AS_TRAINED.get(cfg.MODEL.META_ARCHITECTURE, ()):
        prepare(ours)
    return ours
