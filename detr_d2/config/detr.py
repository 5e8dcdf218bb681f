"""Keys of DETR (Carion et al., ECCV 2020)."""

from detectron2.config import CfgNode as CN


def add_detr_config(cfg: CN) -> None:
    """Add ``MODEL.DETR``. The defaults are the published R50 model's."""
    cfg.MODEL.DETR = CN()
    # Contiguous classes, without the no-object class; things and stuff where INPUT.DATASET_MAPPER reads segments.
    # -1: as many as DATASETS.TRAIN has. A number that is set is obeyed, and must agree with the data.
    cfg.MODEL.DETR.NUM_CLASSES = -1
    # Upper bound of objects in one image.
    cfg.MODEL.DETR.NUM_OBJECT_QUERIES = 100
    # The backbone feature that the transformer reads.
    cfg.MODEL.DETR.IN_FEATURE = "res5"

    # Name in TRANSFORMER_REGISTRY, then its shape.
    cfg.MODEL.DETR.TRANSFORMER = "DetrTransformer"
    cfg.MODEL.DETR.HIDDEN_DIM = 256
    cfg.MODEL.DETR.NHEADS = 8
    cfg.MODEL.DETR.ENC_LAYERS = 6
    cfg.MODEL.DETR.DEC_LAYERS = 6
    cfg.MODEL.DETR.DIM_FEEDFORWARD = 2048
    cfg.MODEL.DETR.DROPOUT = 0.1
    # LayerNorm before (True) or after (False, published) each attention and feed-forward block.
    cfg.MODEL.DETR.PRE_NORM = False
    # "sine" (published) or "learned" (at most 50 x 50 cells).
    cfg.MODEL.DETR.POSITION_EMBEDDING = "sine"
    # Ratio of the longest to the shortest wavelength of the sine encoding. On small maps a lower one tells cells apart
    # in more of its channels (Liu et al., DAB-DETR, ICLR 2022, take 20).
    cfg.MODEL.DETR.POSITION_TEMPERATURE = 10000.0

    # Weights of the losses, and of the same terms in the matching cost.
    cfg.MODEL.DETR.CLASS_WEIGHT = 1.0
    cfg.MODEL.DETR.L1_WEIGHT = 5.0
    cfg.MODEL.DETR.GIOU_WEIGHT = 2.0
    cfg.MODEL.DETR.COST_CLASS = 1.0
    cfg.MODEL.DETR.COST_L1 = 5.0
    cfg.MODEL.DETR.COST_GIOU = 2.0
    # Weight of the no-object class in the cross-entropy: most queries match nothing.
    cfg.MODEL.DETR.NO_OBJECT_WEIGHT = 0.1
    # Losses on every decoder layer ("auxiliary losses").
    cfg.MODEL.DETR.DEEP_SUPERVISION = True
