"""torchvision's FCOS with our weights.

It has no scales, and spaces the locations of a level by the image's size divided by the map's, rounded down: at most
sizes its detections are others than ours, so raw outputs are compared. It is timed for less: it is given the normalised
and padded batch, without the resizing that its public ``forward`` makes of every image.

Legend: B batch, N locations of all levels.
"""

import torchvision
from detectron2.config import CfgNode
from torch import Tensor, nn
from torchvision.models.detection import FCOS as TorchvisionFCOS
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.models.detection.image_list import ImageList
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from ..checkpoint.layouts.fcos import TORCHVISION_NAMES
from ..facts import num_classes_of
from ..facts.resnets import has_bottlenecks
from ..modeling.fcos.outputs import FCOSOutputs
from .workloads import Agreement, OurWorkload, ReferenceWorkload, relative_difference


def check_torchvision(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key where torchvision's FCOS cannot be the model of ``cfg``."""
    model, resnets, fcos = cfg.MODEL, cfg.MODEL.RESNETS, cfg.MODEL.FCOS
    bottleneck = has_bottlenecks(resnets.DEPTH)
    res2_channels = 256 if bottleneck else 64
    refusals = {
        "MODEL.BACKBONE.NAME": model.BACKBONE.NAME != "build_torchvision_resnet_fpn_p6p7_backbone",
        "MODEL.RESNETS.NORM": resnets.NORM != "FrozenBN",
        "MODEL.RESNETS.STRIDE_IN_1X1": bottleneck and resnets.STRIDE_IN_1X1,
        "MODEL.RESNETS.NUM_GROUPS": resnets.NUM_GROUPS != 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": bottleneck and resnets.WIDTH_PER_GROUP != 64,
        "MODEL.RESNETS.STEM_OUT_CHANNELS": resnets.STEM_OUT_CHANNELS != 64,
        "MODEL.RESNETS.RES2_OUT_CHANNELS": res2_channels != resnets.RES2_OUT_CHANNELS,
        "MODEL.RESNETS.DEFORM_ON_PER_STAGE": any(resnets.DEFORM_ON_PER_STAGE),
        "MODEL.RESNETS.RES5_DILATION": resnets.RES5_DILATION != 1,
        "MODEL.FPN.IN_FEATURES": list(model.FPN.IN_FEATURES) != ["res3", "res4", "res5"],
        "MODEL.FPN.OUT_CHANNELS": model.FPN.OUT_CHANNELS != 256,
        "MODEL.FPN.NORM": model.FPN.NORM != "",
        "MODEL.FCOS.NORM": fcos.NORM != "GN",
        "MODEL.FCOS.NUM_CONVS": fcos.NUM_CONVS != 4,
        "MODEL.FCOS.DEFORM_IN_TOWER": fcos.DEFORM_IN_TOWER,
        "MODEL.FCOS.QUALITY_ON_REGRESSION": not fcos.QUALITY_ON_REGRESSION,
        "MODEL.FCOS.NORMALIZE_TARGETS": not fcos.NORMALIZE_TARGETS,
        "MODEL.FCOS.LOCATION_OFFSET": fcos.LOCATION_OFFSET != 0,
    }
    refused = [key for key, is_refused in refusals.items() if is_refused]
    if refused:
        raise ValueError(
            f"torchvision's FCOS cannot be built like this config's, because of {', '.join(refused)}: "
            "use --reference none, or configs/COCO-Detection/fcos_torchvision_R_50.yaml."
        )


def build_torchvision(cfg: CfgNode, ours: nn.Module) -> TorchvisionFCOS:
    """torchvision's model with the weights of ``ours``, on its device; the same parameters are trained.

    Raises:
        ValueError: see `check_torchvision`; or scales that are not 1, which it does not have.
        RuntimeError: the names of weights do not fit; then torchvision has changed them.
    """
    check_torchvision(cfg)
    if any(scale.scale.item() != 1 for scale in ours.head.scales):
        raise ValueError(
            "torchvision's FCOS has no scales, and those of MODEL.WEIGHTS are not 1: use --reference none."
        )
    backbone = resnet_fpn_backbone(
        backbone_name=f"resnet{cfg.MODEL.RESNETS.DEPTH}",
        weights=None,
        norm_layer=torchvision.ops.FrozenBatchNorm2d,  # as it is built for its published weights
        trainable_layers=5,
        returned_layers=[2, 3, 4],
        extra_blocks=LastLevelP6P7(256, 256),
    )
    postprocessor = ours.postprocessor
    on_product = postprocessor.threshold_on == "product"
    model = TorchvisionFCOS(
        backbone,
        num_classes=num_classes_of(cfg)[0],
        center_sampling_radius=cfg.MODEL.FCOS.CENTER_SAMPLING_RADIUS,
        # Its threshold is on the square root of the product; nothing else comes closer to a class score's.
        score_thresh=postprocessor.score_threshold ** (0.5 if on_product else 1.0),
        nms_thresh=postprocessor.nms_threshold,
        detections_per_img=postprocessor.max_detections,
        topk_candidates=postprocessor.topk,
    )
    state = {name: value for name, value in ours.state_dict().items() if not name.startswith("head.scales.")}
    model.load_state_dict(TORCHVISION_NAMES.to_theirs(state), strict=True)
    trained = {name: parameter for name, parameter in ours.named_parameters() if not name.startswith("head.scales.")}
    for name, parameter in TORCHVISION_NAMES.to_theirs(trained).items():
        model.get_parameter(name).requires_grad_(parameter.requires_grad)
    return model.to(ours.device)


class TorchvisionWorkload(ReferenceWorkload):
    """torchvision's FCOS on the same batch."""

    check = staticmethod(check_torchvision)

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        self.model = build_torchvision(cfg, ours).eval()
        self.description = {"model": "torchvision FCOS", "backbone": f"its ResNet-{cfg.MODEL.RESNETS.DEPTH}, FrozenBN"}
        images = ours.preprocess(inputs)
        self.images = ImageList(images.tensor, images.image_sizes)
        self.targets = [
            {
                "boxes": x["instances"].gt_boxes.tensor.to(ours.device),
                "labels": x["instances"].gt_classes.to(ours.device),
            }
            for x in inputs
        ]

    def outputs(self) -> tuple[dict[str, Tensor], list[Tensor]]:
        """``cls_logits``, ``bbox_regression`` (in strides) and ``bbox_ctrness``, B x N x channels; and the features."""
        features = list(self.model.backbone(self.images.tensors).values())
        return self.model.head(features), features

    def infer(self) -> list[dict[str, Tensor]]:
        outputs, features = self.outputs()
        counts = [feature.shape[-2] * feature.shape[-1] for feature in features]
        anchors = [list(x.split(counts)) for x in self.model.anchor_generator(self.images, features)]
        levels = {name: list(value.split(counts, dim=1)) for name, value in outputs.items()}
        return self.model.postprocess_detections(levels, anchors, self.images.image_sizes)

    def loss(self) -> Tensor:
        outputs, features = self.outputs()
        counts = [feature.shape[-2] * feature.shape[-1] for feature in features]
        anchors = self.model.anchor_generator(self.images, features)
        return sum(self.model.compute_loss(self.targets, outputs, anchors, counts).values())

    def compare(self, ours: OurWorkload) -> Agreement:
        """The differences of raw outputs, each relative to its deviation; beside them the numbers of detections, of
        ours and of the reference's, in all images.
        """
        model = ours.model
        features = model.extract(model.preprocess(ours.inputs))
        own, strides = FCOSOutputs.from_levels(model.head(features)), model.locate(features)
        theirs, _ = self.outputs()
        in_strides = own.distances / strides.per_location(strides.strides)[:, None]
        differences = {
            "logits": relative_difference(own.logits, theirs["cls_logits"]),
            "distances": relative_difference(in_strides, theirs["bbox_regression"]),
            "centerness": relative_difference(own.quality, theirs["bbox_ctrness"].squeeze(2)),
        }
        detections = [
            sum(len(result["instances"]) for result in ours.infer()),
            sum(len(result["scores"]) for result in self.infer()),
        ]
        return Agreement(
            differences,
            {"detections": detections},
            "logits differ by at most {logits:.1e} of their deviation, distances by {distances:.1e}, centerness by "
            "{centerness:.1e}; {detections[0]} detections beside {detections[1]}.",
        )
