"""Keys of HGNetV2, the backbone of D-FINE."""

from detectron2.config import CfgNode as CN


def add_hgnet_config(cfg: CN) -> None:
    """Add ``MODEL.HGNET``. The defaults are those of D-FINE-S."""
    cfg.MODEL.HGNET = CN()
    # "B0" (D-FINE N and S), "B2" (M), "B4" (L) or "B5" (X).
    cfg.MODEL.HGNET.ARCHITECTURE = "B0"
    # A learnt scale and bias after every ReLU, as in N, S and M.
    cfg.MODEL.HGNET.LEARNABLE_AFFINE = True
    # "FrozenBN", as in L and X; "BN" or, over all GPUs, "SyncBN", which learn, as those of random weights must.
    cfg.MODEL.HGNET.NORM = "SyncBN"
    # Which of res2 .. res5 are returned.
    cfg.MODEL.HGNET.OUT_FEATURES = ["res3", "res4", "res5"]
