"""Keys of RT-DETR (Zhao et al., CVPR 2024) and RT-DETRv2 (Lv et al., 2024), beside those of DINO."""

from detectron2.config import CfgNode as CN


def add_rt_detr_config(cfg: CN) -> None:
    """Add ``MODEL.RTDETR``. The defaults are those of the published models with R50.

    From ``MODEL.DETR``, ``MODEL.DEFORMABLE_DETR`` and ``MODEL.DINO`` come what they mean there, of the decoder; the
    encoder has ``NHEADS``, ``ENC_LAYERS`` and ``DROPOUT`` of ``MODEL.DETR``.
    """
    cfg.MODEL.RTDETR = CN()
    # The hybrid encoder: its width, and that of its feed-forward network.
    cfg.MODEL.RTDETR.ENC_DIM = 256
    cfg.MODEL.RTDETR.ENC_DIM_FEEDFORWARD = 1024
    # Channels of the blocks that fuse levels, as a part of ENC_DIM.
    cfg.MODEL.RTDETR.EXPANSION = 1.0
    # Norms of encoder and decoder, by Detectron2's names. "SyncBN" needs GPUs where there is more than one process.
    cfg.MODEL.RTDETR.NORM = "SyncBN"
    # "relu", or "silu" in DEIM's models: of feed-forward networks, box heads and positions of queries in the decoder.
    # Nothing in a checkpoint says which.
    cfg.MODEL.RTDETR.ACTIVATION = "relu"
    # Layers from a box's coordinates to the position of its query; 3, and narrower, in DEIM's models.
    cfg.MODEL.RTDETR.POSITION_LAYERS = 2
    # How many of the decoder's layers inference computes; 0: all.
    cfg.MODEL.RTDETR.EVAL_LAYERS = 0
    # "varifocal", or "matchability" as in DEIM's models (gamma 1.5, alpha 1.0); weight and exponent of the probability
    # of what is no object.
    cfg.MODEL.RTDETR.CLASS_LOSS = "varifocal"
    cfg.MODEL.RTDETR.LOSS_ALPHA = 0.75
    cfg.MODEL.RTDETR.LOSS_GAMMA = 2.0
