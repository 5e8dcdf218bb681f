"""``transformers``' RT-DETRv2 and D-FINE on our batch, with our weights, as their configs of the published models are.

Its losses of D-FINE differ from the published ones (they leave out the union of matches), and it has no look-forward-
twice: the work of a training step is about the same, its values are not.
"""

import copy
from typing import TYPE_CHECKING, Any

from detectron2.config import CfgNode
from torch import nn

from ..checkpoint.layouts import d_fine, rt_detr
from ..facts.resnets import BLOCKS_PER_STAGE, has_bottlenecks
from ..modeling.backbone.hgnet import ARCHITECTURES
from .transformers_model import require_transformers
from .transformers_reference import RawOutputs, TransformersWorkload, to_reference

if TYPE_CHECKING:
    from transformers.utils import ModelOutput

_STAGES = {"res2": "stage1", "res3": "stage2", "res4": "stage3", "res5": "stage4"}


def check_real_time(cfg: CfgNode) -> None:
    """Raise a ValueError that names the key where ``transformers`` has no such model, and an ImportError where it is
    missing.
    """
    require_transformers()
    model = cfg.MODEL
    wanted = {
        "MODEL.RTDETR.ACTIVATION": (model.RTDETR.ACTIVATION, "relu"),
        "MODEL.RTDETR.POSITION_LAYERS": (model.RTDETR.POSITION_LAYERS, 2),
        "MODEL.DINO.SHARE_HEADS": (model.DINO.SHARE_HEADS, False),
        "MODEL.DINO.MIXED_SELECTION": (model.DINO.MIXED_SELECTION, False),
    }
    for key, (value, published) in wanted.items():
        if value != published:
            raise ValueError(f"--reference transformers has {published} for {key}, not {value}: use --reference none.")


class RTDETRTransformersWorkload(TransformersWorkload):
    """Images are of one size: it does not mask padding.

    Raises:
        ValueError: the images differ in size.
    """

    check = staticmethod(check_real_time)

    def __init__(self, cfg: CfgNode, ours: nn.Module, inputs: list[dict]) -> None:
        check_real_time(cfg)
        from transformers import RTDetrImageProcessor

        self.model = self.build(cfg, ours).to(ours.device).eval()
        self.description = {"model": f"transformers {type(self.model).__name__}", "backbone": "its own"}
        self.batch = to_reference(cfg, inputs, max(1, ours.backbone.size_divisibility))
        self.refuse_padding("encoder of RT-DETR")
        self.processor = RTDetrImageProcessor()
        self.detections = {}

    @staticmethod
    def build(cfg: CfgNode, ours: nn.Module) -> nn.Module:
        """The model with our weights; statistics that it has and we do not are its own."""
        from transformers import RTDetrResNetConfig, RTDetrV2Config, RTDetrV2ForObjectDetection

        resnets, depth = cfg.MODEL.RESNETS, cfg.MODEL.RESNETS.DEPTH
        backbone = RTDetrResNetConfig(
            embedding_size=resnets.STEM_OUT_CHANNELS,
            hidden_sizes=[resnets.RES2_OUT_CHANNELS * 2**i for i in range(4)],
            depths=list(BLOCKS_PER_STAGE[depth]),
            layer_type="bottleneck" if has_bottlenecks(depth) else "basic",
            out_features=[_STAGES[name] for name in cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES],
        )
        config = RTDetrV2Config(
            backbone_config=backbone, decoder_n_points=cfg.MODEL.DEFORMABLE_DETR.DEC_POINTS, **_shared(cfg, ours)
        )
        return _with_weights(RTDetrV2ForObjectDetection(config), rt_detr.to_transformers(ours.state_dict()))

    def outputs(self, **labels: Any) -> "ModelOutput":
        return self.model(pixel_values=self.batch.pixel_values, **labels)

    def set_auxiliary_losses(self, enabled: bool) -> None:
        """It computes them in training alone."""

    def optimizer_view(self) -> nn.Module:
        return nn.ModuleDict({"backbone": self.model.model.backbone, "rest": self.model})

    def in_one_order(self, detection: Any, outputs: "ModelOutput") -> tuple[RawOutputs, RawOutputs]:
        """By their locations: nearly equal scores of proposals change places by rounding."""
        own, theirs = super().in_one_order(detection, outputs)
        scores = outputs.enc_outputs_class.max(-1).values
        selected = scores.topk(own.logits.shape[1], dim=1).indices
        return own.sorted_by(detection.hidden.proposals.selected), theirs.sorted_by(selected)


class DFINETransformersWorkload(RTDETRTransformersWorkload):
    """As its parent."""

    @staticmethod
    def build(cfg: CfgNode, ours: nn.Module) -> nn.Module:
        """The model with our weights, and heads of their own for all layers, as published."""
        from transformers import DFineConfig, DFineForObjectDetection, HGNetV2Config

        model, architecture = cfg.MODEL, ARCHITECTURES[cfg.MODEL.HGNET.ARCHITECTURE]
        stages, names = architecture.stages, list(model.DEFORMABLE_DETR.IN_FEATURES)
        channels = [stage.channels for stage in stages]
        backbone = HGNetV2Config(
            hidden_sizes=channels,
            stem_channels=[3, *architecture.stem],
            stage_in_channels=[architecture.stem[1], *channels[:-1]],
            stage_mid_channels=[stage.width for stage in stages],
            stage_out_channels=channels,
            stage_num_blocks=[stage.blocks for stage in stages],
            stage_numb_of_layers=[stage.layers for stage in stages],
            use_learnable_affine_block=model.HGNET.LEARNABLE_AFFINE,
            out_features=[_STAGES[name] for name in names],
        )
        config = DFineConfig(
            backbone_config=backbone,
            depth_mult=model.DFINE.FUSION_BLOCKS / 3,
            decoder_n_points=list(model.DFINE.POINTS),
            reg_scale=model.DFINE.REG_SCALE,
            **_shared(cfg, ours),
        )
        return _with_weights(DFineForObjectDetection(config), d_fine.to_transformers(ours.state_dict()))


def _shared(cfg: CfgNode, ours: nn.Module) -> dict[str, Any]:
    """What both configs name alike."""
    model, detr, names = cfg.MODEL, cfg.MODEL.DETR, list(cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES)
    shapes = ours.backbone.output_shape()
    return {
        "freeze_backbone_batch_norms": False,
        "encoder_hidden_dim": model.RTDETR.ENC_DIM,
        "encoder_in_channels": [shapes[name].channels for name in names],
        "feat_strides": [shapes[name].stride for name in names],
        "encode_proj_layers": [len(names) - 1],
        "encoder_ffn_dim": model.RTDETR.ENC_DIM_FEEDFORWARD,
        "encoder_attention_heads": detr.NHEADS,
        "hidden_expansion": model.RTDETR.EXPANSION,
        "d_model": detr.HIDDEN_DIM,
        "num_queries": detr.NUM_OBJECT_QUERIES,
        "num_feature_levels": len(names),
        "decoder_in_channels": [model.RTDETR.ENC_DIM] * len(names),
        "decoder_ffn_dim": detr.DIM_FEEDFORWARD,
        "decoder_layers": detr.DEC_LAYERS,
        "decoder_attention_heads": detr.NHEADS,
        "num_denoising": model.DINO.DENOISING_QUERIES,
        "num_labels": ours.num_classes,
    }


def _with_weights(model: nn.Module, state: dict[str, Any]) -> nn.Module:
    """Raises a RuntimeError where names do not fit; then ``transformers`` has changed them."""
    decoder = model.model.decoder
    for name in ("class_embed", "bbox_embed"):  # one a layer, where transformers ties them as it initialises
        setattr(decoder, name, nn.ModuleList(copy.deepcopy(head) for head in getattr(decoder, name)))
        setattr(model, name, getattr(decoder, name))
    own = model.state_dict()
    known = {key: value for key, value in state.items() if key in own}
    missing = [key for key in own if key not in known and not key.endswith(_COMPUTED)]
    if missing or len(known) < len(state):
        raise RuntimeError(f"transformers' names differ: {missing[:3]}, {sorted(state.keys() - own.keys())[:3]}.")
    model.load_state_dict(own | known)
    return model


# Counters of norms, and what it computes of its config.
_COMPUTED = ("num_batches_tracked", "n_points_scale", "num_points_scale", "anchors", "valid_mask")
