"""Keys of the Swin Transformer (Liu et al., ICCV 2021)."""

from detectron2.config import CfgNode as CN


def add_swin_config(cfg: CN) -> None:
    """Add ``MODEL.SWIN``, by the names of Mask2Former's configs. The defaults are Swin-T's, as Mask2Former has it.

    Swin-S: DEPTHS [2, 2, 18, 2]; Swin-B: that, EMBED_DIM 128, NUM_HEADS [4, 8, 16, 32]; Swin-L: that, EMBED_DIM 192,
    NUM_HEADS [6, 12, 24, 48]. B and L that were pretrained on images of 384 pixels have WINDOW_SIZE 12.
    """
    cfg.MODEL.SWIN = CN()
    # Channels of the first stage; blocks and attention heads of each of the four.
    cfg.MODEL.SWIN.EMBED_DIM = 96
    cfg.MODEL.SWIN.DEPTHS = [2, 2, 6, 2]
    cfg.MODEL.SWIN.NUM_HEADS = [3, 6, 12, 24]
    # Side of the windows of attention, in tokens.
    cfg.MODEL.SWIN.WINDOW_SIZE = 7
    # In training, the last block's branches are left out so often; earlier ones' less, the first one's never.
    cfg.MODEL.SWIN.DROP_PATH_RATE = 0.3
    # Which of res2 .. res5 are returned.
    cfg.MODEL.SWIN.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    # Compute blocks twice in training rather than keep what is inside of them.
    cfg.MODEL.SWIN.USE_CHECKPOINT = False

    # Published configs name these, and all have these values; others are refused.
    cfg.MODEL.SWIN.PATCH_SIZE = 4
    cfg.MODEL.SWIN.MLP_RATIO = 4.0
    cfg.MODEL.SWIN.QKV_BIAS = True
    cfg.MODEL.SWIN.QK_SCALE = None
    cfg.MODEL.SWIN.DROP_RATE = 0.0
    cfg.MODEL.SWIN.ATTN_DROP_RATE = 0.0
    cfg.MODEL.SWIN.APE = False
    cfg.MODEL.SWIN.PATCH_NORM = True
    # The images' side in pretraining, which only APE would need.
    cfg.MODEL.SWIN.PRETRAIN_IMG_SIZE = 224
