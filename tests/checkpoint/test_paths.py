"""Weights by torchvision's names. Nothing is fetched: the handler of URLs is replaced."""

import pytest
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import HTTPURLHandler

import detr_d2.checkpoint  # noqa: F401 (registers the handler)


@pytest.fixture
def fetched(monkeypatch) -> list[str]:
    urls = []
    monkeypatch.setattr(HTTPURLHandler, "_get_local_path", lambda self, path, **_: urls.append(path) or "/cached")
    return urls


@pytest.mark.parametrize(
    ("path", "start"),
    [
        ("torchvision://resnet50", "https://download.pytorch.org/models/resnet50-0676ba61"),
        ("torchvision://resnet50/IMAGENET1K_V2", "https://download.pytorch.org/models/resnet50-11ad3fa6"),
        ("torchvision://resnet101", "https://download.pytorch.org/models/resnet101-63fe2227"),
        ("detectron2://ImageNetPretrained/torchvision/R-50.pkl", "https://dl.fbaipublicfiles.com/detectron2/ImageNet"),
    ],
)
def test_names_become_urls(fetched, path, start):
    assert PathManager.get_local_path(path) == "/cached"
    assert fetched[0].startswith(start)


@pytest.mark.parametrize("path", ["torchvision://resnet51", "torchvision://resnet50/IMAGENET2K"])
def test_unknown_names(fetched, path):
    with pytest.raises(FileNotFoundError, match=f"{path}: torchvision .* publishes no such weights"):
        PathManager.get_local_path(path)
    assert not fetched
