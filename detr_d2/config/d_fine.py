"""Keys of D-FINE (Peng et al., ICLR 2025), beside those of RT-DETR."""

from detectron2.config import CfgNode as CN


def add_d_fine_config(cfg: CN) -> None:
    """Add ``MODEL.DFINE``. The defaults are those of D-FINE-L.

    ``MODEL.RTDETR`` describes encoder, norms and class loss; its ``ACTIVATION`` is what DEIM's and RT-DETRv4's models
    differ by, which have the structure and the names of D-FINE's: "silu" for them, but "relu" for DEIM's X that comes
    from Objects365.
    """
    cfg.MODEL.DFINE = CN()
    # Rep blocks in each of the two parts of a block that fuses levels: 2 in N and M, 1 in S.
    cfg.MODEL.DFINE.FUSION_BLOCKS = 3
    # Points of a head of the decoder's attention in each level, finest first: [6, 6] in N.
    cfg.MODEL.DFINE.POINTS = [3, 6, 3]
    # The bins of a side's offset are so much denser around zero, and its unit is so much finer: 8.0 in X. A checkpoint
    # brings its own.
    cfg.MODEL.DFINE.REG_SCALE = 4.0
    # Loss weights: of the two bins around a side, and of learning distributions from the last layer.
    cfg.MODEL.DFINE.FGL_WEIGHT = 0.15
    cfg.MODEL.DFINE.DDF_WEIGHT = 1.5
