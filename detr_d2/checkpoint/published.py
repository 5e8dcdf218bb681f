"""Where published weights lie, by the name of the config that they belong to; `detr_d2.model_zoo` is for users.

A name is a config of ``configs/`` with or without its suffix, such as ``COCO-Detection/detr_R_50_500ep``. A file of
that name beside the config, with the suffix .pth, holds small weights of this project's own.
"""

import os
from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]
CONFIGS = next((p for p in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if p.is_dir()), _PACKAGE / "configs")
MIRROR = "DETR_D2_MODEL_ZOO"

_DETR = "https://dl.fbaipublicfiles.com/detr/"
_FCOS = "https://huggingface.co/tianzhi/FCOS/resolve/main/"
_ADELAIDET = "https://huggingface.co/tianzhi/AdelaiDet-FCOS/resolve/main/"
_DFINE = "https://github.com/Peterande/storage/releases/download/dfinev1.0/dfine_{}_coco.pth"
_RTDETR = "https://github.com/lyuwenyu/storage/releases/download/"
_TORCHVISION = "https://download.pytorch.org/models/"
_DETECTRON2 = "https://dl.fbaipublicfiles.com/detectron2/"
_MASK2FORMER = (
    "https://dl.fbaipublicfiles.com/maskformer/mask2former/coco/{}/maskformer2_{}_bs16_{}ep/model_final_{}.pkl"
)
_DRIVE = "https://drive.google.com/"
_DINO = f"{_DRIVE}drive/folders/1qD5m1NmK0kjE5hh-G17XUX751WsEG-h_"
# Of the same configs in Detectron2's zoo.
_BASELINES = {
    "COCO-Detection/faster_rcnn_R_50_FPN_1x": "137257794/model_final_b275ba.pkl",
    "COCO-Detection/faster_rcnn_R_50_FPN_3x": "137849458/model_final_280758.pkl",
    "COCO-Detection/faster_rcnn_R_101_FPN_3x": "137851257/model_final_f6e8b1.pkl",
    "COCO-Detection/retinanet_R_50_FPN_1x": "190397773/model_final_bfca0b.pkl",
    "COCO-Detection/retinanet_R_50_FPN_3x": "190397829/model_final_5bd44e.pkl",
    "COCO-Detection/retinanet_R_101_FPN_3x": "190397697/model_final_971ab9.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x": "137260431/model_final_a54504.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_3x": "137849600/model_final_f10217.pkl",
    "COCO-InstanceSegmentation/mask_rcnn_R_101_FPN_3x": "138205316/model_final_a3ec72.pkl",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_1x": "139514544/model_final_dbfeb4.pkl",
    "COCO-PanopticSegmentation/panoptic_fpn_R_50_3x": "139514569/model_final_c10459.pkl",
    "COCO-PanopticSegmentation/panoptic_fpn_R_101_3x": "139514519/model_final_cafdb1.pkl",
}
# Meta's weights of Mask2Former are for non-commercial use (CC BY-NC 4.0).
_MASK2FORMERS = {
    "COCO-PanopticSegmentation/mask2former_R_50": ("panoptic", "R50", 50, "94dc52"),
    "COCO-PanopticSegmentation/mask2former_R_101": ("panoptic", "R101", 50, "b807bd"),
    "COCO-PanopticSegmentation/mask2former_Swin_T": ("panoptic", "swin_tiny", 50, "9fd0ae"),
    "COCO-PanopticSegmentation/mask2former_Swin_S": ("panoptic", "swin_small", 50, "a407fd"),
    "COCO-PanopticSegmentation/mask2former_Swin_B_IN21k": ("panoptic", "swin_base_IN21k_384", 50, "54b88a"),
    "COCO-PanopticSegmentation/mask2former_Swin_L_IN21k_100ep": ("panoptic", "swin_large_IN21k_384", 100, "f07440"),
    "COCO-InstanceSegmentation/mask2former_R_50": ("instance", "R50", 50, "3c8ec9"),
}
# Name of the config -> address of its weights; those on Google Drive must be downloaded by hand.
CHECKPOINTS = {
    "COCO-Detection/detr_R_50_500ep": f"{_DETR}detr-r50-e632da11.pth",
    "COCO-Detection/detr_R_50_DC5": f"{_DETR}detr-r50-dc5-f0fb7ef5.pth",
    "COCO-Detection/detr_R_101": f"{_DETR}detr-r101-2c7b67e5.pth",
    "COCO-Detection/detr_R_101_DC5": f"{_DETR}detr-r101-dc5-a2e86def.pth",
    "COCO-PanopticSegmentation/panoptic_detr_R_50": f"{_DETR}detr-r50-panoptic-00ce5173.pth",
    "COCO-PanopticSegmentation/panoptic_detr_R_50_DC5": f"{_DETR}detr-r50-dc5-panoptic-da08f1b1.pth",
    "COCO-PanopticSegmentation/panoptic_detr_R_101": f"{_DETR}detr-r101-panoptic-40021d53.pth",
    "COCO-Detection/deformable_detr_R_50_single_scale": f"{_DRIVE}file/d/1WEjQ9_FgfI5sw5OZZ4ix-OKk-IJ_-SDU/view",
    "COCO-Detection/deformable_detr_R_50_single_scale_DC5": f"{_DRIVE}file/d/1m_TgMjzH7D44fbA-c_jiBZ-xf-odxGdk/view",
    "COCO-Detection/deformable_detr_R_50": f"{_DRIVE}file/d/1nDWZWHuRwtwGden77NLM9JoWe-YisJnA/view",
    "COCO-Detection/deformable_detr_R_50_refine": f"{_DRIVE}file/d/1JYKyRYzUH7uo9eVfDaVCiaIGZb5YTCuI/view",
    "COCO-Detection/deformable_detr_R_50_two_stage": f"{_DRIVE}file/d/15I03A7hNTpwuLNdfuEmW9_taZMNVssEp/view",
    **{f"COCO-Detection/dino_R_50_{n}scale_{epochs}ep": _DINO for n in (4, 5) for epochs in (12, 24, 36)},
    **{f"COCO-Detection/dfine_{name}": _DFINE.format(name.lower()) for name in "NSMLX"},
    "COCO-Detection/rtdetrv2_R_18": f"{_RTDETR}v0.2/rtdetrv2_r18vd_120e_coco_rerun_48.1.pth",
    "COCO-Detection/rtdetrv2_R_34": f"{_RTDETR}v0.1/rtdetrv2_r34vd_120e_coco_ema.pth",
    "COCO-Detection/rtdetrv2_R_50_m": f"{_RTDETR}v0.1/rtdetrv2_r50vd_m_7x_coco_ema.pth",
    "COCO-Detection/rtdetrv2_R_50": f"{_RTDETR}v0.1/rtdetrv2_r50vd_6x_coco_ema.pth",
    "COCO-Detection/rtdetrv2_R_101": f"{_RTDETR}v0.1/rtdetrv2_r101vd_6x_coco_from_paddle.pth",
    "COCO-Detection/fcos_R_50_1x": f"{_FCOS}FCOS_R_50_FPN_1x.pth",
    "COCO-Detection/fcos_imprv_R_50_1x": f"{_FCOS}FCOS_imprv_R_50_FPN_1x.pth",
    "COCO-Detection/fcos_imprv_R_101_2x": f"{_FCOS}FCOS_imprv_R_101_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_dcnv2_R_50_1x": f"{_FCOS}FCOS_imprv_dcnv2_R_50_FPN_1x.pth",
    "COCO-Detection/fcos_imprv_dcnv2_R_101_2x": f"{_FCOS}FCOS_imprv_dcnv2_R_101_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_X_101_32x8d_2x": f"{_FCOS}FCOS_imprv_X_101_32x8d_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_X_101_64x4d_2x": f"{_FCOS}FCOS_imprv_X_101_64x4d_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_dcnv2_X_101_32x8d_2x": f"{_FCOS}FCOS_imprv_dcnv2_X_101_32x8d_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_dcnv2_X_101_64x4d_2x": f"{_FCOS}FCOS_imprv_dcnv2_X_101_64x4d_FPN_2x.pth",
    "COCO-Detection/fcos_imprv_iou_R_50_1x": f"{_ADELAIDET}FCOS_R_50_1x_iou.pth",
    "COCO-Detection/fcos_torchvision_R_50": f"{_TORCHVISION}fcos_resnet50_fpn_coco-99b0c9b7.pth",
    **{name: _MASK2FORMER.format(*words) for name, words in _MASK2FORMERS.items()},
    **{name: f"{_DETECTRON2}{name}/{file}" for name, file in _BASELINES.items()},
}


def get_config_file(name: str) -> str:
    """Path of a config.

    Raises:
        FileNotFoundError: ``configs/`` has none of this name.
    """
    path = CONFIGS / f"{_without_suffix(name)}.yaml"
    if not path.is_file():
        raise FileNotFoundError(f"{name} is no config of {CONFIGS}.")
    return str(path)


def get_checkpoint_url(name: str) -> str:
    """Address of the weights that were published for a config, or the path of those that this project has of it.
    ``DETR_D2_MODEL_ZOO`` names a folder or an address to take in place of published ones; those that are downloaded by
    hand have the config's name there, such as deformable_detr_R_50.pth.

    Raises:
        FileNotFoundError: there is no such config.
        RuntimeError: no weights of it were published, or they must be downloaded by hand; the message has the address.
    """
    get_config_file(name)
    name = _without_suffix(name)
    if (own := _own_weights(name)).is_file():
        return str(own)
    url = CHECKPOINTS.get(name)
    if url is None:
        raise RuntimeError(f"No weights of {name} were published: train it, or name its weights in MODEL.WEIGHTS.")
    by_hand, mirror = url.startswith(_DRIVE), os.environ.get(MIRROR)
    if mirror:
        return f"{mirror.rstrip('/')}/{Path(name).name + '.pth' if by_hand else url.rsplit('/', 1)[1]}"
    if by_hand:
        raise RuntimeError(f"Download the weights of {name} by hand, and give the file: {url}")
    return url


def is_published(name: str) -> bool:
    """Whether a name is that of a config whose weights are here or have an address, perhaps for downloads by hand."""
    name = _without_suffix(name)
    return name in CHECKPOINTS or _own_weights(name).is_file()


def _own_weights(name: str) -> Path:
    return CONFIGS / f"{name}.pth"


def _without_suffix(name: str) -> str:
    return name.removesuffix(".yaml")
