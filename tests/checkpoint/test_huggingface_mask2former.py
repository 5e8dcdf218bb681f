"""Mask2Former in ``transformers``' folders: written, opened there, and read again."""

import json
import re
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from detr_d2.checkpoint.huggingface import write_huggingface
from detr_d2.checkpoint.huggingface_keys import config_keys
from detr_d2.engine import load_config

from ..parity.mask2former.oracle import BACKBONES, NUM_CLASSES, randomize, small_config

NAMES = ["cat", "dog", "sky", "sea"]
TEST = "MODEL.MASK_FORMER.TEST"


@pytest.mark.parametrize("backbone", BACKBONES)
@torch.no_grad()
def test_ours_opens_there_and_here_again(tmp_path: Path, backbone: str) -> None:
    from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation

    cfg = small_config(backbone, "INPUT.FORMAT", "RGB")
    model = build_model(cfg).eval()
    randomize(model)
    folder = write_huggingface(cfg, model.state_dict(), tmp_path / "model", class_names=NAMES)
    theirs, loading = AutoModelForUniversalSegmentation.from_pretrained(folder, output_loading_info=True)
    unread = r"criterion\.empty_weight|.+\.num_batches_tracked|.+\.swin\.layernorm\.(weight|bias)"
    assert all(re.fullmatch(unread, key) for key in loading["missing_keys"])
    assert not loading["unexpected_keys"]
    assert theirs.config.id2label == dict(enumerate(NAMES))
    assert AutoImageProcessor.from_pretrained(folder).size_divisor == 32
    image = torch.randn(1, 3, 64, 96)
    images = model.preprocess([{"image": (image * model.pixel_std + model.pixel_mean)[0]}])
    expected, found = theirs(image), model.detect(images).predictions
    torch.testing.assert_close(found.pred_logits, expected.class_queries_logits, atol=1e-4, rtol=1e-4)
    masks = torch.einsum("qc,chw->qhw", found.masks.embeddings_of(0)[-1], found.masks.features_of(0))
    torch.testing.assert_close(masks, expected.masks_queries_logits[0], atol=1e-3, rtol=1e-3)

    keys, described = config_keys(str(folder))
    assert described["thing_classes"] == described["stuff_classes"] == NAMES
    again = build_model(load_config("", [str(key) for key in [*keys, "MODEL.DEVICE", "cpu"]]))
    again.load_state_dict(theirs.state_dict(), strict=False)
    assert again.is_thing.tolist() == [True, True, False, False]
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, rtol=0, atol=0, msg=name)


@pytest.mark.parametrize(
    ("things", "results"),
    [([0, 1], (True, True, True)), (list(range(NUM_CLASSES)), (False, True, False)), ([], (False, False, True))],
)
def test_classes_say_which_results_a_folder_gives(tmp_path: Path, things: list[int], results: tuple) -> None:
    cfg = small_config("resnet", "INPUT.FORMAT", "RGB")
    folder = write_huggingface(cfg, build_model(cfg).state_dict(), tmp_path / "model")
    file = folder / "config.json"
    content = json.loads(file.read_text()) | {"thing_classes": things}
    file.write_text(json.dumps(content))
    keys = config_keys(str(folder))[0]
    found = dict(zip(keys[::2], keys[1::2], strict=True))
    assert tuple(found[f"{TEST}.{name}_ON"] for name in ("PANOPTIC", "INSTANCE", "SEMANTIC")) == results
    del content["thing_classes"]
    file.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"config.json: it does not say which classes are things"):
        config_keys(str(folder))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.RESNETS.NUM_GROUPS", 2),
        ("MODEL.SEM_SEG_HEAD.IN_FEATURES", ["res2", "res3", "res4"]),
        ("MODEL.MASK_FORMER.SIZE_DIVISIBILITY", 16),
    ],
)
def test_what_config_json_cannot_say_is_refused(tmp_path: Path, key: str, value: object) -> None:
    with pytest.raises(ValueError, match=key):
        write_huggingface(small_config("resnet", "INPUT.FORMAT", "RGB", key, value), {}, tmp_path / "model")
