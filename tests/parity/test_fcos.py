"""FCOS against torchvision's and against Detectron2's own class, with the same weights, and the published size.

Both are other models than the paper's: no scales, locations at the corners of cells (``LOCATION_OFFSET`` 0.0), a
threshold on sqrt(class * centerness). torchvision in addition spaces the locations of a level by the image's size
divided by the map's, rounded down, which is the stride for images of multiples of 128 pixels alone; Detectron2's class
has P6 and P7 from res5, unless it gets another backbone. The losses of both have another normaliser.
"""

from collections import OrderedDict

import pytest
import torch
import torchvision
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone, build_model
from detectron2.modeling.meta_arch.fcos import FCOS as Detectron2FCOS
from detectron2.modeling.meta_arch.fcos import FCOSHead as Detectron2Head
from torch import Tensor, nn

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.engine import load_config
from detr_d2.modeling import FCOS


def config(repo, name: str, opts: tuple = ()) -> CfgNode:
    path = repo / "configs" / "COCO-Detection" / f"{name}.yaml"
    return load_config(str(path), ["MODEL.DEVICE", "cpu", "MODEL.WEIGHTS", "", *opts])


def randomise(module: nn.Module) -> None:
    """Norms away from the identity, heads that say something, activations of the order of one."""
    generator = torch.Generator().manual_seed(0)

    def uniform(tensor: Tensor, low: float, high: float) -> None:
        tensor.data.copy_(low + (high - low) * torch.rand(tensor.shape, generator=generator))

    for name, tensor in module.state_dict().items():
        if name.endswith(("running_var", "bn1.weight", "bn2.weight", "downsample.1.weight")):
            uniform(tensor, 0.5, 1.5)
        elif name.endswith("bn3.weight"):
            uniform(tensor, 0.1, 0.4)
        elif name.endswith(("running_mean", "bn1.bias", "bn2.bias", "bn3.bias")):
            uniform(tensor, -0.2, 0.2)
        elif "head" in name and tensor.dim() == 4:
            bound = 3.0 / tensor[0].numel() ** 0.5
            uniform(tensor, -bound, bound)
        elif "head" in name and name.endswith("bias"):
            uniform(tensor, -1.0, 1.0)


@pytest.fixture(scope="module")
def reference() -> torchvision.models.detection.FCOS:
    torch.manual_seed(0)
    model = torchvision.models.detection.fcos_resnet50_fpn(
        weights=None, weights_backbone=None, num_classes=91, min_size=256, max_size=384
    ).eval()
    randomise(model)
    model.head.classification_head.cls_logits.bias.data -= 2.5
    return model


@pytest.fixture
def ours(repo, reference, tmp_path) -> FCOS:
    cfg = config(repo, "fcos_torchvision_R_50", ("MODEL.FCOS.NUM_CLASSES", 80))
    model = build_model(cfg).eval()
    torch.save(reference.state_dict(), tmp_path / "torchvision.pth")
    checkpointer = DetrCheckpointer(model)
    checkpointer.load(str(tmp_path / "torchvision.pth"))
    assert checkpointer.last_report.layout == "torchvision's FCOS"
    assert not checkpointer.last_report.missing
    return model


def used_rows() -> list[int]:
    """COCO's category ids, from torchvision's own names."""
    names = torchvision.models.detection.FCOS_ResNet50_FPN_Weights.COCO_V1.meta["categories"]
    return [i for i, name in enumerate(names) if name not in ("__background__", "N/A")]


def test_logits_distances_and_centerness_equal_torchvisions(ours, reference) -> None:
    """A batch of two images of different odd sizes, padded by each model, with gradients."""
    images = [torch.rand(3, 250, 333), torch.rand(3, 201, 170)]
    batch = ours.preprocess([{"image": 255 * image} for image in images])
    transform = reference.transform
    transform.min_size, transform.max_size = (1,), 10**6  # keep the sizes
    normalised = transform.batch_images([transform.normalize(image) for image in images])
    torch.testing.assert_close(batch.tensor, normalised, atol=1e-5, rtol=1e-5)

    levels = ours.head(ours.extract(batch))
    features = list(reference.backbone(normalised).values())
    expected = reference.head(features)
    for name, mine in (
        ("cls_logits", [level.logits for level in levels]),
        ("bbox_ctrness", [level.quality for level in levels]),
        ("bbox_regression", [level.distances / s for level, s in zip(levels, ours.strides, strict=True)]),
    ):
        flat = torch.cat([x.permute(0, 2, 3, 1).flatten(1, 2) for x in mine], dim=1)
        theirs = expected[name][..., used_rows()] if name == "cls_logits" else expected[name]
        assert theirs.std() > 0.3, name
        torch.testing.assert_close(flat, theirs, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("size", [(256, 384), (128, 256)])
def test_detections_equal_torchvisions(ours, reference, size: tuple[int, int]) -> None:
    """At multiples of 128 pixels, where its locations are evenly spaced, and but for the classes that COCO lacks."""
    torch.manual_seed(1)
    image = torch.rand(3, *size)
    reference.transform.min_size, reference.transform.max_size = (min(size),), max(size)
    unused = [i for i in range(91) if i not in used_rows()]
    reference.head.classification_head.cls_logits.bias.data[unused] = -100
    with torch.no_grad():
        (expected,) = reference([image])
        instances = ours([{"image": 255 * image}])[0]["instances"]
    assert len(instances) == len(expected["scores"]) == 100
    torch.testing.assert_close(instances.scores, expected["scores"], atol=1e-3, rtol=1e-3)
    # Detections of nearly equal scores may change places.
    close = (instances.pred_boxes.tensor[:, None] - expected["boxes"]).abs().amax(2) < 0.5
    same_class = torch.tensor(used_rows())[instances.pred_classes][:, None] == expected["labels"]
    assert (close & same_class).any(1).float().mean() >= 0.99


def test_parameters_are_as_many_as_published(repo) -> None:
    model = build_model(config(repo, "fcos_imprv_R_50_1x"))
    assert sum(p.numel() for p in model.parameters()) == 32_244_250


def detectron2_name(name: str) -> str | None:
    """Our name of a head's tensor in Detectron2's class; it has no scales."""
    for ours, theirs in (
        ("cls_tower", "cls_subnet"),
        ("bbox_tower", "bbox_subnet"),
        ("cls_logits", "cls_score"),
        ("quality", "ctrness"),
    ):
        name = name.replace(f"head.{ours}.", f"head.{theirs}.")
    return None if ".scales." in name else name


def test_outputs_equal_those_of_detectron2s_class(small_fcos_cfg) -> None:
    torch.manual_seed(0)
    cfg = small_fcos_cfg
    ours = build_model(cfg).eval()
    randomise(ours)
    for module in ours.head.modules():
        if isinstance(module, nn.GroupNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
    shapes, levels = ours.backbone.output_shape(), list(cfg.MODEL.FCOS.IN_FEATURES)
    reference = Detectron2FCOS(
        backbone=build_backbone(cfg),
        head=Detectron2Head(input_shape=[shapes[f] for f in levels], num_classes=80, conv_dims=[64] * 4, norm="GN"),
        head_in_features=levels,
        num_classes=80,
        pixel_mean=cfg.MODEL.PIXEL_MEAN,
        pixel_std=cfg.MODEL.PIXEL_STD,
    ).eval()
    names = {name: detectron2_name(name) for name in ours.state_dict()}
    state = OrderedDict((theirs, ours.state_dict()[name]) for name, theirs in names.items() if theirs)
    missing, unexpected = reference.load_state_dict(state, strict=False)
    assert unexpected == []
    assert all(key.startswith("pixel_") for key in missing), missing

    inputs = [{"image": torch.randint(0, 256, (3, *size), dtype=torch.uint8)} for size in ((97, 130), (128, 70))]
    predictions = ours.head(ours.extract(ours.preprocess(inputs)))
    images = reference.preprocess_image(inputs)
    features = [reference.backbone(images.tensor)[f] for f in reference.head_in_features]
    logits, regression, centerness = reference.head(features)
    for i, level in enumerate(predictions):
        assert logits[i].std() > 0.1
        torch.testing.assert_close(level.logits, logits[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(level.quality, centerness[i], atol=1e-4, rtol=1e-4)
        # Theirs are clipped at 0 when they are decoded, and in strides.
        torch.testing.assert_close(level.distances, ours.strides[i] * regression[i].relu(), atol=1e-3, rtol=1e-4)
