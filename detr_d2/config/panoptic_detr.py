"""Keys of panoptic DETR (Carion et al., ECCV 2020, section 4.2), beside those of ``MODEL.DETR``."""

from detectron2.config import CfgNode as CN


def add_panoptic_detr_config(cfg: CN) -> None:
    """Add ``MODEL.PANOPTIC_DETR``. The defaults are the published R50 model's."""
    cfg.MODEL.PANOPTIC_DETR = CN()
    # The model that finds boxes, by its name in META_ARCH_REGISTRY: "DETR" (published), "DeformableDETR", or any other
    # set predictor of boxes.
    cfg.MODEL.PANOPTIC_DETR.BOX_MODEL = "DETR"
    # Name in DETR_MASK_HEAD_REGISTRY.
    cfg.MODEL.PANOPTIC_DETR.MASK_HEAD = "DetrMaskHead"
    # Backbone features finer than MODEL.DETR.IN_FEATURE that the mask head adds, coarsest first; masks have the size of
    # the last. All must be among the backbone's OUT_FEATURES.
    cfg.MODEL.PANOPTIC_DETR.MASK_FEATURES = ("res4", "res3", "res2")
    # Feature that the mask head starts from, in models that read several: one of MODEL.DEFORMABLE_DETR.IN_FEATURES; ""
    # is its last. MASK_FEATURES are finer than this one. DETR has one feature and does not read this key.
    cfg.MODEL.PANOPTIC_DETR.IN_FEATURE = ""
    # The most masks that are computed at once: less memory in inference, the same results.
    cfg.MODEL.PANOPTIC_DETR.MASK_CHUNK_SIZE = 16
    # Train the mask head alone: the box model gets no gradient, no dropout, no group in the optimizer.
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = False

    # Weights of the mask losses.
    cfg.MODEL.PANOPTIC_DETR.FOCAL_WEIGHT = 1.0
    cfg.MODEL.PANOPTIC_DETR.DICE_WEIGHT = 1.0
    # Weight of a classification of every cell of the encoder's output, which only training has. 0: none, as published.
    # Without pretrained weights it teaches the classes in a quarter of the iterations.
    cfg.MODEL.PANOPTIC_DETR.DENSE_CLASS_WEIGHT = 0.0

    # Contiguous ids of the classes that are things; () takes them from the metadata of DATASETS.TRAIN[0].
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = ()
    # A query enters the panoptic map if its best class is an object's with a probability above this.
    cfg.MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD = 0.85
    # Segments of at most so many pixels are removed from the panoptic map.
    cfg.MODEL.PANOPTIC_DETR.SMALL_SEGMENT_AREA = 4
    # "instances" holds things of at least this score. 0 keeps all queries, which the published mask AP needs; a higher
    # one computes fewer masks.
    cfg.MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE = 0.0
