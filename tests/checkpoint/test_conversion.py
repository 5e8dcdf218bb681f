"""Converting state dicts and files between layouts."""

import os
import pickle

import numpy as np
import pytest
import torch
import torchvision

from detr_d2.checkpoint import DetrCheckpointer, convert_checkpoint, read_checkpoint, to_detr_d2, to_official
from detr_d2.checkpoint.class_rows import ROW_TABLES


def assert_equal(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)


def test_official_to_ours(fake_detr, official_state):
    result = to_detr_d2(official_state())
    assert result["__author__"] == "detr_d2"
    expected = fake_detr(seed=1).state_dict()
    assert result["model"].keys() == expected.keys()
    assert result["model"]["class_embed.weight"].shape == (81, 8)
    assert torch.equal(result["model"]["backbone.res5.2.conv3.norm.bias"], expected["backbone.res5.2.conv3.norm.bias"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("learned", [True, False])
def test_round_trip_is_exact(official_state, dtype, learned):
    official = {key: value.to(dtype) for key, value in official_state(learned=learned).items()}
    back = to_official(to_detr_d2(official)["model"])["model"]
    assert list(back) == list(official)
    used = list(ROW_TABLES[0].used)
    head = ("class_embed.weight", "class_embed.bias")
    assert_equal({k: v for k, v in back.items() if k not in head}, {k: v for k, v in official.items() if k not in head})
    for key in head:
        assert torch.equal(back[key][used], official[key][used])
    unused = [i for i in range(92) if i not in used]
    assert (back["class_embed.weight"][unused] == 0).all()
    assert (back["class_embed.bias"][unused] == -1e4).all()


def test_class_ids_of_the_result(fake_detr, official_state):
    ours = fake_detr().state_dict()
    assert len(to_official(ours)["model"]["class_embed.bias"]) == 92
    assert len(to_official(ours, "contiguous")["model"]["class_embed.bias"]) == 81
    assert len(to_detr_d2(official_state(), "coco")["model"]["class_embed.bias"]) == 92
    assert len(to_detr_d2(ours, "coco")["model"]["class_embed.bias"]) == 92
    assert len(to_detr_d2(official_state(rows=21))["model"]["class_embed.bias"]) == 21
    with pytest.raises(ValueError, match=r"has 21 rows.*--class-ids contiguous"):
        to_official(fake_detr(classes=20).state_dict())


def test_backbone_alone(fake_detr, tmp_path):
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), tmp_path / "in.pth")
    convert_checkpoint(str(tmp_path / "in.pth"), str(tmp_path / "out.pth"))
    written = torch.load(tmp_path / "out.pth", weights_only=True)
    assert "stem.conv1.norm.weight" in written["model"]
    assert not any("fc" in key for key in written["model"])
    model = fake_detr(depth=18, width=64)
    DetrCheckpointer(model).load(str(tmp_path / "out.pth"))
    assert torch.equal(model.backbone.res3[1].conv2.weight, resnet.layer2[1].conv2.weight)
    with pytest.raises(ValueError, match="of a torchvision ResNet alone"):
        to_official(resnet.state_dict())


def test_unknown_layout():
    with pytest.raises(ValueError, match=r"layout of these weights is unknown: a\.weight"):
        to_detr_d2({"a.weight": torch.ones(1)})


def test_file_and_its_errors(official_state, saved, tmp_path):
    source, target = saved({"model": official_state(), "epoch": 3}), str(tmp_path / "out.pth")
    assert "official DETR" in convert_checkpoint(source, target)
    assert_equal(read_checkpoint(target)["model"], to_detr_d2(official_state())["model"])
    with pytest.raises(FileExistsError, match=r"out\.pth exists"):
        convert_checkpoint(source, target)
    convert_checkpoint(source, target, to="official", overwrite=True)
    assert "backbone.0.body.conv1.weight" in read_checkpoint(target)["model"]
    with pytest.raises(FileNotFoundError, match=r"folder .*nowhere of the output"):
        convert_checkpoint(source, str(tmp_path / "nowhere" / "out.pth"))
    with pytest.raises(FileNotFoundError, match="no checkpoint file"):
        convert_checkpoint(str(tmp_path / "nothing.pth"), str(tmp_path / "x.pth"))


def test_the_names_of_the_classes_are_kept(official_state, saved, tmp_path):
    classes = {"thing_classes": ["cat"], "thing_dataset_id_to_contiguous_id": {7: 0}}
    source, target = saved({"model": official_state(), "dataset_metadata": classes}), str(tmp_path / "out.pth")
    convert_checkpoint(source, target)
    assert read_checkpoint(target)["dataset_metadata"] == classes


def test_half_the_size(official_state, saved, tmp_path):
    state, target = official_state(), tmp_path / "out.pth"
    convert_checkpoint(saved({"model": state}), str(target), half=True)
    whole, half = to_detr_d2(state)["model"], read_checkpoint(str(target))["model"]
    for name, values in whole.items():
        assert half[name].dtype == (torch.float16 if values.is_floating_point() else values.dtype), name
        torch.testing.assert_close(half[name].to(values.dtype), values, rtol=1e-3, atol=1e-7)
    state["transformer.decoder.norm.weight"][0] = 1e5
    with pytest.raises(ValueError, match=r"transformer\.decoder\.norm\.weight holds numbers above 65504.*--half"):
        convert_checkpoint(saved({"model": state}), str(target), half=True, overwrite=True)


def test_failed_write_keeps_the_old_output(official_state, saved, tmp_path, monkeypatch):
    source, target = saved({"model": official_state()}), tmp_path / "out.pth"
    target.write_bytes(b"old")
    monkeypatch.setattr(torch, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        convert_checkpoint(source, str(target), overwrite=True)
    assert target.read_bytes() == b"old"
    assert sorted(os.listdir(tmp_path)) == ["out.pth", "weights.pth"]


def test_conversion_of_a_pickle(tmp_path, fake_detr):
    arrays = {key: value.numpy() for key, value in fake_detr().backbone.state_dict().items()}
    arrays["stem.fc.weight"] = np.ones((2, 2), np.float32)
    path = tmp_path / "R-50.pkl"
    path.write_bytes(pickle.dumps({"model": arrays, "__author__": "torchvision", "matching_heuristics": True}))
    convert_checkpoint(str(path), str(tmp_path / "out.pth"))
    assert_equal(read_checkpoint(tmp_path / "out.pth")["model"], dict(fake_detr().backbone.state_dict()))
