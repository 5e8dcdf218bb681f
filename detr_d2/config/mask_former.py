"""Keys of Mask2Former (Cheng et al., CVPR 2022), by the names of its published configs."""

from detectron2.config import CfgNode as CN


def add_mask_former_config(cfg: CN) -> None:
    """Add ``MODEL.MASK_FORMER``, and to Detectron2's ``MODEL.SEM_SEG_HEAD`` what it has in these configs. The defaults
    are the published R50 model's.

    Of ``MODEL.SEM_SEG_HEAD``, Mask2Former reads ``NUM_CLASSES`` (-1: as many as ``DATASETS.TRAIN`` has),
    ``IN_FEATURES`` (finest first; the first is for the masks alone), ``MASK_DIM`` and ``TRANSFORMER_ENC_LAYERS``.
    """
    head = cfg.MODEL.SEM_SEG_HEAD
    # Channels of the features that masks are made of; layers of the pixel decoder's deformable encoder.
    head.MASK_DIM = 256
    head.TRANSFORMER_ENC_LAYERS = 6

    cfg.MODEL.MASK_FORMER = CN()
    former = cfg.MODEL.MASK_FORMER
    # Width of both transformers, their heads; the feed-forward width of the decoder, and of the encoder (1024 in all
    # published models).
    former.HIDDEN_DIM = 256
    former.NHEADS = 8
    former.DIM_FEEDFORWARD = 2048
    former.ENC_DIM_FEEDFORWARD = 1024
    former.DROPOUT = 0.0
    # One more than the decoder has layers: predictions, that of the learned queries included.
    former.DEC_LAYERS = 10
    # Upper bound of objects in one image.
    former.NUM_OBJECT_QUERIES = 100

    # Losses on every prediction; their weights, which are also those of the matching cost.
    former.DEEP_SUPERVISION = True
    former.CLASS_WEIGHT = 2.0
    former.MASK_WEIGHT = 5.0
    former.DICE_WEIGHT = 5.0
    # Weight of the no-object class in the cross-entropy.
    former.NO_OBJECT_WEIGHT = 0.1
    # Points at which a mask is compared; so many times more are drawn, of which this share of points is chosen.
    former.TRAIN_NUM_POINTS = 12544
    former.OVERSAMPLE_RATIO = 3.0
    former.IMPORTANCE_SAMPLE_RATIO = 0.75

    # Images are padded to a multiple of this, and what an image alone is padded with counts as image.
    former.SIZE_DIVISIBILITY = 32
    # Contiguous ids of the classes that are things; () takes them from the metadata of DATASETS.TRAIN[0].
    former.THING_CLASSES = ()
    # The most masks that are held at the output's size at once: less memory, the same results.
    former.MASK_CHUNK_SIZE = 16

    former.TEST = CN()
    # What is returned: "panoptic_seg", "instances", "sem_seg".
    former.TEST.PANOPTIC_ON = True
    former.TEST.INSTANCE_ON = True
    former.TEST.SEMANTIC_ON = False
    # A query enters the panoptic map if its best class is an object's with a probability above the first, and stays
    # if other segments leave it this share of its mask.
    former.TEST.OBJECT_MASK_THRESHOLD = 0.8
    former.TEST.OVERLAP_THRESHOLD = 0.8
    # Instances are the TEST.DETECTIONS_PER_IMAGE best pairs of query and class whose class has at least this
    # probability. 0 keeps all, which the published mask AP needs; a higher one computes fewer masks.
    former.TEST.INSTANCE_MIN_SCORE = 0.0
