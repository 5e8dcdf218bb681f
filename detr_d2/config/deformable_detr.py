"""Keys of Deformable DETR (Zhu et al., ICLR 2021), beside those of ``MODEL.DETR`` that mean the same."""

from detectron2.config import CfgNode as CN


def add_deformable_detr_config(cfg: CN) -> None:
    """Add ``MODEL.DEFORMABLE_DETR``. The defaults are the published multi-scale R50 model's.

    From ``MODEL.DETR`` come the number of classes and queries, the name of the transformer ("DeformableTransformer"),
    its width, heads, layers and dropout, the position encoding, the weights of losses and matching costs, and
    ``DEEP_SUPERVISION``. ``TEST.DETECTIONS_PER_IMAGE`` pairs of query and class are returned for an image.
    """
    cfg.MODEL.DEFORMABLE_DETR = CN()
    # Backbone features that the transformer reads, finest first. All must be among the backbone's OUT_FEATURES.
    cfg.MODEL.DEFORMABLE_DETR.IN_FEATURES = ("res3", "res4", "res5")
    # Levels in all: those beyond IN_FEATURES halve the last one's size, each once more.
    cfg.MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS = 4
    # Points that each head reads in each level, in the encoder and in the decoder.
    cfg.MODEL.DEFORMABLE_DETR.ENC_POINTS = 4
    cfg.MODEL.DEFORMABLE_DETR.DEC_POINTS = 4

    # What computes deformable attention: "auto", "torch", "triton" or "torch-ms-deform-attn". The environment variable
    # DETR_D2_MS_DEFORM_ATTN overrides it.
    cfg.MODEL.DEFORMABLE_DETR.ATTENTION_BACKEND = "auto"

    # Every decoder layer has heads of its own and refines the box of the layer before.
    cfg.MODEL.DEFORMABLE_DETR.BOX_REFINE = False
    # Name in QUERY_SELECTION_REGISTRY: "LearnedQueries", or "TwoStageQueries" for the encoder's best proposals, which
    # needs BOX_REFINE.
    cfg.MODEL.DEFORMABLE_DETR.QUERY_SELECTION = "LearnedQueries"

    # Focal loss, and the same terms in the matching cost: weight of positives, exponent of the error.
    cfg.MODEL.DEFORMABLE_DETR.FOCAL_ALPHA = 0.25
    cfg.MODEL.DEFORMABLE_DETR.FOCAL_GAMMA = 2.0
