"""The facts of Detectron2's own models, which cannot state them. Importing this states them."""

from detectron2.modeling import GeneralizedRCNN, PanopticFPN, ProposalNetwork, RetinaNet, SemanticSegmentor
from detectron2.modeling.meta_arch import dense_detector, panoptic_fpn, rcnn
from torch import nn

from ..facts.models import ModelFacts, state_facts


def _box_predictors(model: nn.Module) -> list[tuple[object, str]]:
    """What makes boxes of the raw outputs of an R-CNN: one predictor, or one a stage of a cascade."""
    predictors = getattr(model.roi_heads, "box_predictor", None)
    predictors = list(predictors) if isinstance(predictors, nn.ModuleList) else [predictors]
    return [(predictor, "inference") for predictor in predictors if predictor is not None]


def _of_rcnn(model: nn.Module) -> list[tuple[object, str]]:
    return [*_box_predictors(model), (rcnn, "detector_postprocess")]


def _of_panoptic_fpn(model: nn.Module) -> list[tuple[object, str]]:
    names = ("detector_postprocess", "sem_seg_postprocess", "combine_semantic_and_instance_outputs")
    return _box_predictors(model) + [(panoptic_fpn, name) for name in names]


def _of_dense_detector(model: nn.Module) -> list[tuple[object, str]]:
    return [(model, "forward_inference"), (dense_detector, "detector_postprocess")]


state_facts(
    GeneralizedRCNN,
    ModelFacts(num_classes="MODEL.ROI_HEADS.NUM_CLASSES", weights=(r"^roi_heads\.",), postprocessing=_of_rcnn),
)
state_facts(
    PanopticFPN,
    ModelFacts(
        num_classes="MODEL.ROI_HEADS.NUM_CLASSES",
        semantic_classes="MODEL.SEM_SEG_HEAD.NUM_CLASSES",
        is_panoptic=True,
        weights=(r"^roi_heads\.", r"^sem_seg_head\."),
        postprocessing=_of_panoptic_fpn,
    ),
)
state_facts(RetinaNet, ModelFacts(num_classes="MODEL.RETINANET.NUM_CLASSES", postprocessing=_of_dense_detector))
state_facts(dense_detector.DenseDetector, ModelFacts(postprocessing=_of_dense_detector))
state_facts(SemanticSegmentor, ModelFacts(semantic_classes="MODEL.SEM_SEG_HEAD.NUM_CLASSES"))
state_facts(ProposalNetwork, ModelFacts())
