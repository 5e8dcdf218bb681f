"""The recipes of published models, as their papers and sources state them, by the keys of our configs.

A number here is a fact about a published model: it changes where that source was read wrongly, never with a config.
"""

IMAGES = 118_287  # of train2017
IMAGENET_RGB = {
    "INPUT.FORMAT": "RGB",
    "MODEL.PIXEL_MEAN": [123.675, 116.28, 103.53],
    "MODEL.PIXEL_STD": [58.395, 57.12, 57.375],
}
TORCHVISION = "detectron2://ImageNetPretrained/torchvision/R-{}.pkl"
MSRA = "detectron2://ImageNetPretrained/MSRA/R-{}.pkl"
SIZES = {
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
}
MULTI_STEP = {"SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR", "SOLVER.GAMMA": 0.1, "SOLVER.AMP.ENABLED": False}


def resnet(depth: int, weights: str, **keys: object) -> dict[str, object]:
    """A ResNet whose stem and res2 are frozen, as are all of its norms."""
    return {
        "MODEL.WEIGHTS": weights.format(depth),
        "MODEL.BACKBONE.FREEZE_AT": 2,
        "MODEL.RESNETS.DEPTH": depth,
        "MODEL.RESNETS.NORM": "FrozenBN",
        "MODEL.RESNETS.STRIDE_IN_1X1": weights == MSRA,
        "MODEL.RESNETS.RES5_DILATION": 1,
        "MODEL.RESNETS.NUM_GROUPS": 1,
        "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    } | {f"MODEL.RESNETS.{name}": value for name, value in keys.items()}


def epochs(number: int, drop: int, batch: int) -> dict[str, object]:
    """Whole iterations of an epoch, as the official loaders count them."""
    return {
        "SOLVER.MAX_ITER": number * (IMAGES // batch),
        "SOLVER.STEPS": [drop * (IMAGES // batch)],
        "SOLVER.IMS_PER_BATCH": batch,
    }


def weights_and_costs(classes: float, l1: float = 5.0, giou: float = 2.0) -> dict[str, object]:
    """Which are the same numbers in the loss and in the matching, on every decoder layer."""
    values = {"CLASS": classes, "L1": l1, "GIOU": giou}
    keys = {f"MODEL.DETR.{name}_WEIGHT": value for name, value in values.items()}
    return (
        keys
        | {f"MODEL.DETR.COST_{name}": value for name, value in values.items()}
        | {"MODEL.DETR.DEEP_SUPERVISION": True}
    )


# Carion et al., ECCV 2020, and facebookresearch/detr.
DETR = {
    **IMAGENET_RGB,
    **SIZES,
    **MULTI_STEP,
    **resnet(50, TORCHVISION),
    **epochs(500, 400, batch=64),
    **weights_and_costs(1.0),
    "MODEL.META_ARCHITECTURE": "DETR",
    "MODEL.BACKBONE.NAME": "build_torchvision_resnet_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.DETR.TRANSFORMER": "DetrTransformer",
    "MODEL.DETR.IN_FEATURE": "res5",
    "MODEL.DETR.NUM_OBJECT_QUERIES": 100,
    "MODEL.DETR.HIDDEN_DIM": 256,
    "MODEL.DETR.NHEADS": 8,
    "MODEL.DETR.ENC_LAYERS": 6,
    "MODEL.DETR.DEC_LAYERS": 6,
    "MODEL.DETR.DIM_FEEDFORWARD": 2048,
    "MODEL.DETR.DROPOUT": 0.1,
    "MODEL.DETR.PRE_NORM": False,
    "MODEL.DETR.POSITION_EMBEDDING": "sine",
    "MODEL.DETR.POSITION_TEMPERATURE": 10000.0,
    "MODEL.DETR.NO_OBJECT_WEIGHT": 0.1,
    "INPUT.DATASET_MAPPER": "DetrDatasetMapper",
    "INPUT.MIN_SIZE_TRAIN": list(range(480, 801, 32)),
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MIN_SIZE_TRAIN_CROP": [400, 500, 600],
    "INPUT.CROP.ENABLED": True,
    "INPUT.CROP.TYPE": "absolute_range",
    "INPUT.CROP.SIZE": [384, 600],
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "SOLVER.OPTIMIZER": "ADAMW",
    "SOLVER.BASE_LR": 1e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.LR_MULTIPLIERS": [],
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": None,
    "SOLVER.WEIGHT_DECAY_MULTIPLIERS": [],
    "SOLVER.BIAS_LR_FACTOR": 1.0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.1,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}
R101, DC5 = resnet(101, TORCHVISION), {"MODEL.RESNETS.RES5_DILATION": 2}

PANOPTIC_DATA = {
    "INPUT.DATASET_MAPPER": "PanopticDatasetMapper",
    "DATASETS.TRAIN": ["coco_2017_train_panoptic"],
    "DATASETS.TEST": ["coco_2017_val_panoptic"],
}
# The box model is frozen, and the mask head trained for 25 epochs.
PANOPTIC_DETR = (
    DETR
    | PANOPTIC_DATA
    | epochs(25, 15, batch=64)
    | {
        "MODEL.META_ARCHITECTURE": "PanopticDETR",
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.PANOPTIC_DETR.BOX_MODEL": "DETR",
        "MODEL.PANOPTIC_DETR.MASK_HEAD": "DetrMaskHead",
        "MODEL.PANOPTIC_DETR.MASK_FEATURES": ["res4", "res3", "res2"],
        "MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL": True,
        "MODEL.PANOPTIC_DETR.FOCAL_WEIGHT": 1.0,
        "MODEL.PANOPTIC_DETR.DICE_WEIGHT": 1.0,
        "MODEL.PANOPTIC_DETR.DENSE_CLASS_WEIGHT": 0.0,
        "MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD": 0.85,
        "MODEL.PANOPTIC_DETR.SMALL_SEGMENT_AREA": 4,
        "MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE": 0.0,
    }
)

# Zhu et al., ICLR 2021, and fundamentalvision/Deformable-DETR.
DEFORMABLE = (
    DETR
    | weights_and_costs(2.0)
    | epochs(50, 40, batch=32)
    | {
        "MODEL.META_ARCHITECTURE": "DeformableDETR",
        "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
        "MODEL.DETR.TRANSFORMER": "DeformableTransformer",
        "MODEL.DETR.NUM_OBJECT_QUERIES": 300,
        "MODEL.DETR.DIM_FEEDFORWARD": 1024,
        "MODEL.DEFORMABLE_DETR.IN_FEATURES": ["res3", "res4", "res5"],
        "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 4,
        "MODEL.DEFORMABLE_DETR.ENC_POINTS": 4,
        "MODEL.DEFORMABLE_DETR.DEC_POINTS": 4,
        "MODEL.DEFORMABLE_DETR.BOX_REFINE": False,
        "MODEL.DEFORMABLE_DETR.QUERY_SELECTION": "LearnedQueries",
        "MODEL.DEFORMABLE_DETR.FOCAL_ALPHA": 0.25,
        "MODEL.DEFORMABLE_DETR.FOCAL_GAMMA": 2.0,
        "SOLVER.BASE_LR": 2e-4,
        "SOLVER.LR_MULTIPLIERS": [["reference_points", 0.1], ["sampling_offsets", 0.1]],
        "TEST.DETECTIONS_PER_IMAGE": 100,
    }
)
SINGLE_SCALE = {
    "MODEL.RESNETS.OUT_FEATURES": ["res5"],
    "MODEL.DEFORMABLE_DETR.IN_FEATURES": ["res5"],
    "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 1,
}
REFINE = {"MODEL.DEFORMABLE_DETR.BOX_REFINE": True}
TWO_STAGE = REFINE | {"MODEL.DEFORMABLE_DETR.QUERY_SELECTION": "TwoStageQueries"}

# Zhang et al., ICLR 2023, and IDEA-Research/DINO: the 4-scale model for 12 epochs.
DINO = (
    DEFORMABLE
    | TWO_STAGE
    | weights_and_costs(1.0)
    | epochs(12, 11, batch=16)
    | {
        "MODEL.META_ARCHITECTURE": "DINO",
        "MODEL.DETR.TRANSFORMER": "DINOTransformer",
        "MODEL.DETR.NUM_OBJECT_QUERIES": 900,
        "MODEL.DETR.DIM_FEEDFORWARD": 2048,
        "MODEL.DETR.DROPOUT": 0.0,
        "MODEL.DETR.POSITION_TEMPERATURE": 20.0,
        "MODEL.DETR.COST_CLASS": 2.0,
        "MODEL.DEFORMABLE_DETR.QUERY_SELECTION": "DINOQueries",
        "MODEL.DINO.DENOISING_QUERIES": 100,
        "MODEL.DINO.CONTRASTIVE": True,
        "MODEL.DINO.LABEL_NOISE": 0.5,
        "MODEL.DINO.BOX_NOISE": 1.0,
        "MODEL.DINO.MIXED_SELECTION": True,
        "MODEL.DINO.LOOK_FORWARD_TWICE": True,
        "MODEL.DINO.SHARE_HEADS": True,
        "MODEL.DINO.POSITION_OFFSET": 0.0,
        "SOLVER.BASE_LR": 1e-4,
        "SOLVER.LR_MULTIPLIERS": [],
    }
)
FIVE_SCALE = {
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.DEFORMABLE_DETR.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 5,
}
# mmdetection's, which start from the classifier of Microsoft's release.
DINO_SWIN = {key: value for key, value in DINO.items() if not key.startswith("MODEL.RESNETS.")} | {
    "MODEL.WEIGHTS": "https://github.com/SwinTransformer/storage/releases/download/v1.0.0/"
    "swin_large_patch4_window12_384_22k.pth",
    "MODEL.BACKBONE.NAME": "build_swin_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.SWIN.EMBED_DIM": 192,
    "MODEL.SWIN.DEPTHS": [2, 2, 18, 2],
    "MODEL.SWIN.NUM_HEADS": [6, 12, 24, 48],
    "MODEL.SWIN.WINDOW_SIZE": 12,
    "MODEL.SWIN.DROP_PATH_RATE": 0.2,
    "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.DEFORMABLE_DETR.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 5,
}

# Zhao et al., CVPR 2024; Lv et al., 2024, and lyuwenyu/RT-DETR: version 2, "L".
RESNET_VD = "https://github.com/lyuwenyu/storage/releases/download/v0.1/ResNet{}_pretrained_from_paddle.pth"
RTDETR = {key: value for key, value in DINO.items() if not key.startswith("INPUT.")} | {
    "INPUT.FORMAT": "RGB",
    "INPUT.DATASET_MAPPER": "DetrDatasetMapper",
    "INPUT.AUGMENTATION": "build_square_augmentation",
    "INPUT.RANDOM_FLIP": "horizontal",
    "INPUT.SQUARE_SIZE": 640,
    "INPUT.SQUARE_SIZE_TRAIN": [480, 512, 544, 576, 608, 640, 640, 640, 672, 704, 736, 768, 800],
    "INPUT.PHOTOMETRIC": 0.5,
    "INPUT.ZOOM_OUT": 0.5,
    "INPUT.IOU_CROP": 0.8,
    "INPUT.STRONG_UNTIL": 0.98611,  # 71 of 72 epochs
    "MODEL.META_ARCHITECTURE": "RTDETR",
    "MODEL.WEIGHTS": RESNET_VD.format("50_vd_ssld_v2"),
    "MODEL.PIXEL_MEAN": [0.0, 0.0, 0.0],
    "MODEL.PIXEL_STD": [255.0, 255.0, 255.0],
    "MODEL.BACKBONE.NAME": "build_resnet_vd_backbone",
    "MODEL.BACKBONE.FREEZE_AT": 1,
    "MODEL.DETR.TRANSFORMER": "RTDETRTransformer",
    "MODEL.DETR.NUM_OBJECT_QUERIES": 300,
    "MODEL.DETR.ENC_LAYERS": 1,
    "MODEL.DETR.DIM_FEEDFORWARD": 1024,
    "MODEL.DETR.POSITION_TEMPERATURE": 10000.0,
    "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 3,
    "MODEL.DINO.MIXED_SELECTION": False,
    "MODEL.DINO.SHARE_HEADS": False,
    "MODEL.RTDETR.ENC_DIM": 256,
    "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": 1024,
    "MODEL.RTDETR.EXPANSION": 1.0,
    "MODEL.RTDETR.NORM": "SyncBN",
    "MODEL.RTDETR.ACTIVATION": "relu",
    "MODEL.RTDETR.POSITION_LAYERS": 2,
    "MODEL.RTDETR.EVAL_LAYERS": 0,
    "MODEL.RTDETR.CLASS_LOSS": "varifocal",
    "MODEL.RTDETR.LOSS_ALPHA": 0.75,
    "MODEL.RTDETR.LOSS_GAMMA": 2.0,
    "SOLVER.MAX_ITER": 72 * (IMAGES // 16),
    "SOLVER.STEPS": [],
    "SOLVER.WARMUP_ITERS": 2000,
    "SOLVER.WEIGHT_DECAY_NORM": 0.0,
    "SOLVER.AMP.ENABLED": True,
    "SOLVER.EMA.ENABLED": True,
    "SOLVER.EMA.DECAY": 0.9999,
    "SOLVER.EMA.WARMUP": 2000,
    "TEST.DETECTIONS_PER_IMAGE": 300,
}
RTDETR_S = RTDETR | {
    "MODEL.WEIGHTS": RESNET_VD.format("18_vd"),
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.RESNETS.DEPTH": 18,
    "MODEL.RESNETS.NORM": "SyncBN",
    "MODEL.DETR.DEC_LAYERS": 3,
    "MODEL.RTDETR.EXPANSION": 0.5,
    "INPUT.SQUARE_SIZE_TRAIN": [],
    "INPUT.STRONG_UNTIL": 117 / 120,
    "SOLVER.MAX_ITER": 120 * (IMAGES // 16),
    "SOLVER.BACKBONE_MULTIPLIER": 1.0,
}

# Peng et al., ICLR 2025, and Peterande/D-FINE: "L".
HGNET = "https://github.com/Peterande/storage/releases/download/dfinev1.0/PPHGNetV2_{}_stage1.pth"


def squares(often: int) -> dict[str, object]:
    """Sides of a batch's images: 640 so many times among ten others."""
    return {"INPUT.SQUARE_SIZE_TRAIN": [*range(480, 640, 32), *[640] * often, *range(672, 801, 32)]}


DFINE = {key: value for key, value in RTDETR.items() if not key.startswith("MODEL.RESNETS.")} | {
    "MODEL.META_ARCHITECTURE": "DFINE",
    "MODEL.WEIGHTS": HGNET.format("B4"),
    "MODEL.BACKBONE.NAME": "build_hgnet_backbone",
    "MODEL.HGNET.ARCHITECTURE": "B4",
    "MODEL.HGNET.LEARNABLE_AFFINE": False,
    "MODEL.HGNET.NORM": "FrozenBN",
    "MODEL.HGNET.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.DETR.TRANSFORMER": "DFINETransformer",
    "MODEL.DFINE.FUSION_BLOCKS": 3,
    "MODEL.DFINE.POINTS": [3, 6, 3],
    "MODEL.DFINE.REG_SCALE": 4.0,
    "MODEL.DFINE.FGL_WEIGHT": 0.15,
    "MODEL.DFINE.DDF_WEIGHT": 1.5,
    "SOLVER.IMS_PER_BATCH": 32,
    "SOLVER.BASE_LR": 2.5e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.05,
    "SOLVER.WEIGHT_DECAY": 1.25e-4,
    "SOLVER.MAX_ITER": 80 * (IMAGES // 32),
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.EMA.WARMUP": 1000,
    **squares(4),
    "INPUT.STRONG_UNTIL": 0.9,
}
DFINE_X = DFINE | {
    **squares(3),
    "MODEL.WEIGHTS": HGNET.format("B5"),
    "MODEL.HGNET.ARCHITECTURE": "B5",
    "MODEL.RTDETR.ENC_DIM": 384,
    "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": 2048,
    "MODEL.DFINE.REG_SCALE": 8.0,
    "SOLVER.BACKBONE_MULTIPLIER": 0.01,
}
DFINE_M = DFINE | {
    **squares(6),
    "INPUT.STRONG_UNTIL": 0.90909,
    "MODEL.WEIGHTS": HGNET.format("B2"),
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.HGNET.ARCHITECTURE": "B2",
    "MODEL.HGNET.LEARNABLE_AFFINE": True,
    "MODEL.HGNET.NORM": "SyncBN",
    "MODEL.DETR.DEC_LAYERS": 4,
    "MODEL.DFINE.FUSION_BLOCKS": 2,
    "SOLVER.BASE_LR": 2e-4,
    "SOLVER.BACKBONE_MULTIPLIER": 0.1,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.MAX_ITER": 132 * (IMAGES // 32),
}
DFINE_S = DFINE_M | {
    **squares(20),
    "MODEL.WEIGHTS": HGNET.format("B0"),
    "MODEL.HGNET.ARCHITECTURE": "B0",
    "MODEL.DETR.DEC_LAYERS": 3,
    "MODEL.RTDETR.EXPANSION": 0.5,
    "MODEL.DFINE.FUSION_BLOCKS": 1,
    "SOLVER.BACKBONE_MULTIPLIER": 0.5,
}
DFINE_N = DFINE_S | {
    "INPUT.SQUARE_SIZE_TRAIN": [],
    "INPUT.STRONG_UNTIL": 0.925,
    "MODEL.HGNET.OUT_FEATURES": ["res4", "res5"],
    "MODEL.DEFORMABLE_DETR.IN_FEATURES": ["res4", "res5"],
    "MODEL.DEFORMABLE_DETR.NUM_FEATURE_LEVELS": 2,
    "MODEL.DETR.HIDDEN_DIM": 128,
    "MODEL.DETR.DIM_FEEDFORWARD": 512,
    "MODEL.RTDETR.ENC_DIM": 128,
    "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": 512,
    "MODEL.RTDETR.EXPANSION": 0.34,
    "MODEL.DFINE.FUSION_BLOCKS": 2,
    "MODEL.DFINE.POINTS": [6, 6],
    "SOLVER.IMS_PER_BATCH": 128,
    "SOLVER.BASE_LR": 8e-4,
    "SOLVER.MAX_ITER": 160 * (IMAGES // 128),
}
# What is known of DEIM's models of these structures, and of RT-DETRv4's, is not their whole recipe.
DEIM = {
    "MODEL.BACKBONE.FREEZE_AT": 0,
    "MODEL.HGNET.NORM": "SyncBN",
    "MODEL.RTDETR.ACTIVATION": "silu",
    "MODEL.RTDETR.CLASS_LOSS": "matchability",
    "MODEL.RTDETR.LOSS_GAMMA": 1.5,
}

# The schedules of Detectron, and of its model zoo: SGD on 16 images a step.
SGD_16 = {
    **SIZES,
    **MULTI_STEP,
    "INPUT.FORMAT": "BGR",
    "INPUT.DATASET_MAPPER": "",
    "INPUT.CROP.ENABLED": False,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.NESTEROV": False,
    "SOLVER.WEIGHT_DECAY": 1e-4,
    "SOLVER.CLIP_GRADIENTS.ENABLED": False,
    "TEST.DETECTIONS_PER_IMAGE": 100,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}


def schedule(iterations: int, *steps: int) -> dict[str, object]:
    return {"SOLVER.MAX_ITER": iterations, "SOLVER.STEPS": list(steps)}


ONE_X, TWO_X, THREE_X = (
    schedule(90_000, 60_000, 80_000),
    schedule(180_000, 120_000, 160_000),
    schedule(270_000, 210_000, 250_000),
)

# Tian et al., ICCV 2019 (the first) and TPAMI 2020 ("imprv"), and tianzhi0549/FCOS.
FCOS_IMPRV = {
    **SGD_16,
    **ONE_X,
    **resnet(50, MSRA, OUT_FEATURES=["res3", "res4", "res5"], DEFORM_ON_PER_STAGE=[False] * 4),
    "MODEL.META_ARCHITECTURE": "FCOS",
    "MODEL.PIXEL_MEAN": [102.9801, 115.9465, 122.7717],
    "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
    "MODEL.BACKBONE.NAME": "build_torchvision_resnet_fpn_p6p7_backbone",
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "MODEL.FCOS.IN_FEATURES": ["p3", "p4", "p5", "p6", "p7"],
    "MODEL.FCOS.LOCATION_OFFSET": 0.5,
    "MODEL.FCOS.NUM_CONVS": 4,
    "MODEL.FCOS.NORM": "GN",
    "MODEL.FCOS.DEFORM_IN_TOWER": False,
    "MODEL.FCOS.QUALITY": "centerness",
    "MODEL.FCOS.QUALITY_ON_REGRESSION": True,
    "MODEL.FCOS.NORMALIZE_TARGETS": True,
    "MODEL.FCOS.PRIOR_PROB": 0.01,
    "MODEL.FCOS.REGRESSION_RANGES": [64, 128, 256, 512],
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 1.5,
    "MODEL.FCOS.LOCALIZATION_LOSS": "giou",
    "MODEL.FCOS.FOCAL_LOSS_ALPHA": 0.25,
    "MODEL.FCOS.FOCAL_LOSS_GAMMA": 2.0,
    "MODEL.FCOS.SCORE_THRESH_TEST": 0.05,
    "MODEL.FCOS.SCORE_THRESH_ON": "class",
    "MODEL.FCOS.TOPK_CANDIDATES_TEST": 1000,
    "MODEL.FCOS.NMS_THRESH_TEST": 0.6,
    "INPUT.MIN_SIZE_TRAIN": [800],
    "SOLVER.BASE_LR": 0.01,
    "SOLVER.BIAS_LR_FACTOR": 2.0,
    "SOLVER.WEIGHT_DECAY_NORM": 1e-4,
    "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
    "SOLVER.WARMUP_METHOD": "constant",
    "SOLVER.WARMUP_ITERS": 500,
    "SOLVER.WARMUP_FACTOR": 1 / 3,
}
FCOS_FIRST = FCOS_IMPRV | {
    "MODEL.FCOS.QUALITY_ON_REGRESSION": False,
    "MODEL.FCOS.CENTER_SAMPLING_RADIUS": 0.0,
    "MODEL.FCOS.LOCALIZATION_LOSS": "iou",
    "MODEL.FCOS.NORMALIZE_TARGETS": False,
}
FCOS_2X = FCOS_IMPRV | TWO_X | {"INPUT.MIN_SIZE_TRAIN": [640, 800], "INPUT.MIN_SIZE_TRAIN_SAMPLING": "range"}
FCOS_R101 = FCOS_2X | {"MODEL.WEIGHTS": MSRA.format(101), "MODEL.RESNETS.DEPTH": 101}
DCN = {
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": [False, True, True, True],
    "MODEL.RESNETS.DEFORM_MODULATED": True,
    "MODEL.FCOS.DEFORM_IN_TOWER": True,
}
FCOS_TORCHVISION = (
    FCOS_IMPRV
    | IMAGENET_RGB
    | {
        "MODEL.WEIGHTS": "https://download.pytorch.org/models/fcos_resnet50_fpn_coco-99b0c9b7.pth",
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
        "MODEL.FCOS.LOCATION_OFFSET": 0.0,
        "MODEL.FCOS.SCORE_THRESH_ON": "product",
        "MODEL.FCOS.SCORE_THRESH_TEST": 0.2**2,
    }
)


def resnext(groups: int, width: int) -> dict[str, object]:
    return FCOS_R101 | {
        "MODEL.WEIGHTS": f"catalog://ImageNetPretrained/FAIR/X-101-{groups}x{width}d",
        "MODEL.RESNETS.NUM_GROUPS": groups,
        "MODEL.RESNETS.WIDTH_PER_GROUP": width,
        "MODEL.RESNETS.STRIDE_IN_1X1": False,
    }


# Detectron2's model zoo.
ZOO = (
    SGD_16
    | resnet(50, MSRA)
    | {
        "MODEL.PIXEL_MEAN": [103.53, 116.28, 123.675],
        "MODEL.PIXEL_STD": [1.0, 1.0, 1.0],
        "MODEL.FPN.OUT_CHANNELS": 256,
        "INPUT.MIN_SIZE_TRAIN": [640, 672, 704, 736, 768, 800],
        "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.WEIGHT_DECAY_BIAS": None,
        "SOLVER.BIAS_LR_FACTOR": 1.0,
        "SOLVER.WARMUP_METHOD": "linear",
        "SOLVER.WARMUP_ITERS": 1000,
        "SOLVER.WARMUP_FACTOR": 1 / 1000,
    }
)
RCNN = ZOO | {
    "MODEL.META_ARCHITECTURE": "GeneralizedRCNN",
    "MODEL.MASK_ON": False,
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.PRE_NMS_TOPK_TEST": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.RPN.POST_NMS_TOPK_TEST": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": ["p2", "p3", "p4", "p5"],
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
    "MODEL.ROI_MASK_HEAD.NAME": "MaskRCNNConvUpsampleHead",
    "MODEL.ROI_MASK_HEAD.NUM_CONV": 4,
    "MODEL.ROI_MASK_HEAD.POOLER_RESOLUTION": 14,
    "SOLVER.BASE_LR": 0.02,
}
MASK_RCNN = RCNN | {"MODEL.MASK_ON": True}
PANOPTIC_FPN = MASK_RCNN | {
    "MODEL.META_ARCHITECTURE": "PanopticFPN",
    "MODEL.SEM_SEG_HEAD.LOSS_WEIGHT": 0.5,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": False,
    "DATASETS.TRAIN": ["coco_2017_train_panoptic_separated"],
    "DATASETS.TEST": ["coco_2017_val_panoptic_separated"],
}
RETINANET = ZOO | {
    "MODEL.META_ARCHITECTURE": "RetinaNet",
    "MODEL.BACKBONE.NAME": "build_retinanet_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[x, x * 2 ** (1 / 3), x * 2 ** (2 / 3)] for x in (32, 64, 128, 256, 512)],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RETINANET.IOU_THRESHOLDS": [0.4, 0.5],
    "MODEL.RETINANET.IOU_LABELS": [0, -1, 1],
    "MODEL.RETINANET.SMOOTH_L1_LOSS_BETA": 0.0,
    "SOLVER.BASE_LR": 0.01,
}
ZOO_R101 = {"MODEL.WEIGHTS": MSRA.format(101), "MODEL.RESNETS.DEPTH": 101}

# Cheng et al., CVPR 2022, and facebookresearch/Mask2Former.
MASK2FORMER = (
    {
        key: value
        for key, value in DETR.items()
        if not key.startswith(("MODEL.DETR.", "INPUT.MIN_SIZE_TRAIN", "INPUT.CROP"))
    }
    | PANOPTIC_DATA
    | {
        "MODEL.META_ARCHITECTURE": "Mask2Former",
        "MODEL.BACKBONE.FREEZE_AT": 0,
        "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.IN_FEATURES": ["res2", "res3", "res4", "res5"],
        "MODEL.SEM_SEG_HEAD.MASK_DIM": 256,
        "MODEL.SEM_SEG_HEAD.TRANSFORMER_ENC_LAYERS": 6,
        "MODEL.MASK_FORMER.HIDDEN_DIM": 256,
        "MODEL.MASK_FORMER.NHEADS": 8,
        "MODEL.MASK_FORMER.DIM_FEEDFORWARD": 2048,
        "MODEL.MASK_FORMER.ENC_DIM_FEEDFORWARD": 1024,
        "MODEL.MASK_FORMER.DROPOUT": 0.0,
        "MODEL.MASK_FORMER.DEC_LAYERS": 10,
        "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 100,
        "MODEL.MASK_FORMER.DEEP_SUPERVISION": True,
        "MODEL.MASK_FORMER.CLASS_WEIGHT": 2.0,
        "MODEL.MASK_FORMER.MASK_WEIGHT": 5.0,
        "MODEL.MASK_FORMER.DICE_WEIGHT": 5.0,
        "MODEL.MASK_FORMER.NO_OBJECT_WEIGHT": 0.1,
        "MODEL.MASK_FORMER.TRAIN_NUM_POINTS": 12544,
        "MODEL.MASK_FORMER.OVERSAMPLE_RATIO": 3.0,
        "MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO": 0.75,
        "MODEL.MASK_FORMER.SIZE_DIVISIBILITY": 32,
        "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": True,
        "MODEL.MASK_FORMER.TEST.INSTANCE_ON": True,
        "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": True,
        "MODEL.MASK_FORMER.TEST.OBJECT_MASK_THRESHOLD": 0.8,
        "MODEL.MASK_FORMER.TEST.OVERLAP_THRESHOLD": 0.8,
        "MODEL.MASK_FORMER.TEST.INSTANCE_MIN_SCORE": 0.0,
        "TEST.DETECTIONS_PER_IMAGE": 100,
        "INPUT.DATASET_MAPPER": "Mask2FormerPanopticMapper",
        "INPUT.AUGMENTATION": "build_large_scale_jitter",
        "INPUT.IMAGE_SIZE": 1024,
        "INPUT.MIN_SCALE": 0.1,
        "INPUT.MAX_SCALE": 2.0,
        "INPUT.CROP.ENABLED": False,
        "SOLVER.IMS_PER_BATCH": 16,
        "SOLVER.MAX_ITER": 368750,
        "SOLVER.STEPS": [327778, 355092],
        "SOLVER.WEIGHT_DECAY": 0.05,
        "SOLVER.WEIGHT_DECAY_NORM": 0.0,
        "SOLVER.WARMUP_FACTOR": 1.0,
        "SOLVER.WARMUP_ITERS": 10,
        "SOLVER.AMP.ENABLED": True,
        "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 0.01,
    }
)
del MASK2FORMER["SOLVER.WEIGHT_DECAY_MULTIPLIERS"]  # by name, where the official code asks for the kind of module
MASK2FORMER_INSTANCES = MASK2FORMER | {
    "INPUT.DATASET_MAPPER": "DetrDatasetMapper",
    "MODEL.MASK_ON": True,
    "MODEL.MASK_FORMER.TEST.PANOPTIC_ON": False,
    "MODEL.MASK_FORMER.TEST.SEMANTIC_ON": False,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "DATASETS.TRAIN": ["coco_2017_train"],
    "DATASETS.TEST": ["coco_2017_val"],
}


def swin(file: str, depth: int, width: int = 96, heads: int = 3, window: int = 7) -> dict[str, object]:
    """Mask2Former on a Swin Transformer by its third stage's depth, and the first stage's width and heads."""
    release = "https://github.com/SwinTransformer/storage/releases/download/v1.0.0"
    return {key: value for key, value in MASK2FORMER.items() if not key.startswith("MODEL.RESNETS.")} | {
        "MODEL.WEIGHTS": f"{release}/swin_{file}.pth",
        "MODEL.BACKBONE.NAME": "build_swin_backbone",
        "MODEL.SWIN.EMBED_DIM": width,
        "MODEL.SWIN.DEPTHS": [2, 2, depth, 2],
        "MODEL.SWIN.NUM_HEADS": [heads * 2**i for i in range(4)],
        "MODEL.SWIN.WINDOW_SIZE": window,
        "MODEL.SWIN.DROP_PATH_RATE": 0.3,
        "MODEL.SWIN.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    }


MASK2FORMER_LARGE = swin("large_patch4_window12_384_22k", 18, 192, 6, 12) | {
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES": 200,
    "SOLVER.MAX_ITER": 737500,
    "SOLVER.STEPS": [655556, 710184],
}

# The published models, by file: number of classes, then the recipe.
PUBLISHED: dict[str, tuple[int, dict[str, object]]] = {
    "COCO-Detection/detr_R_50_300ep": (80, DETR | epochs(300, 200, batch=64)),
    "COCO-Detection/detr_R_50_500ep": (80, DETR),
    "COCO-Detection/detr_R_50_DC5": (80, DETR | DC5),
    "COCO-Detection/detr_R_101": (80, DETR | R101),
    "COCO-Detection/detr_R_101_DC5": (80, DETR | R101 | DC5),
    "COCO-PanopticSegmentation/detr_R_50_boxes": (133, DETR | PANOPTIC_DATA),
    "COCO-PanopticSegmentation/panoptic_detr_R_50": (133, PANOPTIC_DETR),
    "COCO-PanopticSegmentation/panoptic_detr_R_50_DC5": (133, PANOPTIC_DETR | DC5),
    "COCO-PanopticSegmentation/panoptic_detr_R_101": (133, PANOPTIC_DETR | R101),
    "COCO-Detection/deformable_detr_R_50_single_scale": (80, DEFORMABLE | SINGLE_SCALE),
    "COCO-Detection/deformable_detr_R_50_single_scale_DC5": (80, DEFORMABLE | SINGLE_SCALE | DC5),
    "COCO-Detection/deformable_detr_R_50": (80, DEFORMABLE),
    "COCO-Detection/deformable_detr_R_50_refine": (80, DEFORMABLE | REFINE),
    "COCO-Detection/deformable_detr_R_50_two_stage": (80, DEFORMABLE | TWO_STAGE),
    "COCO-Detection/dino_R_50_4scale_12ep": (80, DINO),
    "COCO-Detection/dino_R_50_4scale_24ep": (80, DINO | epochs(24, 20, batch=16)),
    "COCO-Detection/dino_R_50_4scale_36ep": (80, DINO | epochs(36, 30, batch=16)),
    "COCO-Detection/dino_R_50_5scale_12ep": (80, DINO | FIVE_SCALE),
    "COCO-Detection/dino_R_50_5scale_24ep": (80, DINO | FIVE_SCALE | epochs(24, 20, batch=16)),
    "COCO-Detection/dino_R_50_5scale_36ep": (80, DINO | FIVE_SCALE | epochs(36, 30, batch=16)),
    "COCO-Detection/dino_Swin_L_5scale_12ep": (80, DINO_SWIN),
    "COCO-Detection/dino_Swin_L_5scale_36ep": (
        80,
        DINO_SWIN | epochs(36, 27, batch=16) | {"SOLVER.STEPS": [27 * (IMAGES // 16), 33 * (IMAGES // 16)]},
    ),
    "COCO-Detection/dfine_N": (80, DFINE_N),
    "COCO-Detection/dfine_S": (80, DFINE_S),
    "COCO-Detection/dfine_M": (80, DFINE_M),
    "COCO-Detection/dfine_L": (80, DFINE),
    "COCO-Detection/dfine_X": (80, DFINE_X),
    **{f"COCO-Detection/deim_dfine_{name}": (80, DEIM) for name in "NSMLX"},
    "COCO-Detection/rtdetrv2_R_18": (80, RTDETR_S),
    "COCO-Detection/rtdetrv2_R_34": (
        80,
        RTDETR_S
        | {
            "MODEL.WEIGHTS": RESNET_VD.format("34_vd"),
            "MODEL.RESNETS.DEPTH": 34,
            "MODEL.DETR.DEC_LAYERS": 4,
            "SOLVER.BACKBONE_MULTIPLIER": 0.5,
            "SOLVER.WEIGHT_DECAY_BIAS": 0.0,
            "INPUT.SQUARE_SIZE_TRAIN": RTDETR["INPUT.SQUARE_SIZE_TRAIN"],
        },
    ),
    "COCO-Detection/rtdetrv2_R_50_m": (
        80,
        RTDETR
        | {
            "MODEL.RTDETR.EXPANSION": 0.5,
            "MODEL.RTDETR.EVAL_LAYERS": 3,
            "INPUT.STRONG_UNTIL": 0.96429,  # 81 of 84 epochs
            "SOLVER.MAX_ITER": 84 * (IMAGES // 16),
        },
    ),
    "COCO-Detection/rtdetrv2_R_50": (80, RTDETR),
    "COCO-Detection/rtdetrv2_R_101": (
        80,
        RTDETR
        | {
            "MODEL.WEIGHTS": RESNET_VD.format("101_vd_ssld"),
            "MODEL.RESNETS.DEPTH": 101,
            "MODEL.RTDETR.ENC_DIM": 384,
            "MODEL.RTDETR.ENC_DIM_FEEDFORWARD": 2048,
            "SOLVER.BACKBONE_MULTIPLIER": 0.01,
        },
    ),
    "COCO-Detection/fcos_R_50_1x": (80, FCOS_FIRST),
    "COCO-Detection/fcos_imprv_R_50_1x": (80, FCOS_IMPRV),
    "COCO-Detection/fcos_imprv_iou_R_50_1x": (80, FCOS_IMPRV | {"MODEL.FCOS.QUALITY": "iou"}),
    "COCO-Detection/fcos_imprv_R_101_2x": (80, FCOS_R101),
    "COCO-Detection/fcos_imprv_X_101_32x8d_2x": (80, resnext(32, 8)),
    "COCO-Detection/fcos_imprv_X_101_64x4d_2x": (80, resnext(64, 4)),
    "COCO-Detection/fcos_imprv_dcnv2_R_50_1x": (80, FCOS_IMPRV | DCN),
    "COCO-Detection/fcos_imprv_dcnv2_R_101_2x": (80, FCOS_R101 | DCN),
    "COCO-Detection/fcos_imprv_dcnv2_X_101_32x8d_2x": (80, resnext(32, 8) | DCN),
    "COCO-Detection/fcos_imprv_dcnv2_X_101_64x4d_2x": (80, resnext(64, 4) | DCN),
    "COCO-Detection/fcos_torchvision_R_50": (80, FCOS_TORCHVISION),
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": (80, RCNN | ONE_X),
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": (80, RCNN | THREE_X),
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": (80, RCNN | THREE_X | ZOO_R101),
    "COCO-Detection/retinanet_R_50_FPN_1x": (80, RETINANET | ONE_X),
    "COCO-Detection/retinanet_R_50_FPN_3x": (80, RETINANET | THREE_X),
    "COCO-Detection/retinanet_R_101_FPN_3x": (80, RETINANET | THREE_X | ZOO_R101),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": (80, MASK_RCNN | ONE_X),
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": (80, MASK_RCNN | THREE_X),
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": (80, MASK_RCNN | THREE_X | ZOO_R101),
    "COCO-PanopticSegmentation/mask2former_R_50": (133, MASK2FORMER),
    "COCO-PanopticSegmentation/mask2former_R_101": (133, MASK2FORMER | R101 | {"MODEL.BACKBONE.FREEZE_AT": 0}),
    "COCO-PanopticSegmentation/mask2former_Swin_T": (133, swin("tiny_patch4_window7_224", 6)),
    "COCO-PanopticSegmentation/mask2former_Swin_S": (133, swin("small_patch4_window7_224", 18)),
    "COCO-PanopticSegmentation/mask2former_Swin_B_IN21k": (133, swin("base_patch4_window12_384_22k", 18, 128, 4, 12)),
    "COCO-PanopticSegmentation/mask2former_Swin_L_IN21k_100ep": (133, MASK2FORMER_LARGE),
    "COCO-InstanceSegmentation/mask2former_R_50": (80, MASK2FORMER_INSTANCES),
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x": (80, PANOPTIC_FPN | ONE_X),
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x": (80, PANOPTIC_FPN | THREE_X),
    "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x": (80, PANOPTIC_FPN | THREE_X | ZOO_R101),
}
# On COCO, too, but nobody published them: a short schedule, and two ways to train that are ours.
OURS = {
    "COCO-Detection/detr_R_50_50ep",
    "COCO-PanopticSegmentation/panoptic_detr_R_50_joint",
    "COCO-PanopticSegmentation/panoptic_deformable_detr_R_50",
}
