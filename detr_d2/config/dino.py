"""Keys of DINO (Zhang et al., ICLR 2023), beside those of ``MODEL.DETR`` and ``MODEL.DEFORMABLE_DETR`` that mean the
same.
"""

from detectron2.config import CfgNode as CN


def add_dino_config(cfg: CN) -> None:
    """Add ``MODEL.DINO``. The defaults are the published model's; what makes it out of a two-stage Deformable DETR with
    dynamic anchors can be switched off one by one.
    """
    cfg.MODEL.DINO = CN()
    # Denoising: how many objects with noise are further queries in training, in all groups; 0 is none.
    cfg.MODEL.DINO.DENOISING_QUERIES = 100
    # Besides each of them one with more noise, which is to be no object.
    cfg.MODEL.DINO.CONTRASTIVE = True
    # Half of it is the share of their classes that are drawn anew: with few classes, draw all (2.0).
    cfg.MODEL.DINO.LABEL_NOISE = 0.5
    # How far corners of their boxes move, in halves of the box's size.
    cfg.MODEL.DINO.BOX_NOISE = 1.0
    # Queries start from learned vectors at the proposed boxes, rather than from the features there.
    cfg.MODEL.DINO.MIXED_SELECTION = True
    # The loss of a layer's boxes also trains the layer before.
    cfg.MODEL.DINO.LOOK_FORWARD_TWICE = True
    # One pair of heads for all decoder layers, as published; mmdetection's and detrex' models have one a layer.
    cfg.MODEL.DINO.SHARE_HEADS = True
    # Added to positions, counted from 1, of the sine encoding: mmdetection's improved models and detrex' have -0.5.
    cfg.MODEL.DINO.POSITION_OFFSET = 0.0
