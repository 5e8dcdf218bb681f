"""Configs of strangers, as they lie beside downloaded weights."""

import os
from pathlib import Path

import pytest
from detectron2.utils.file_io import PathManager
from torch import nn

from detr_d2.checkpoint import DetrCheckpointer
from detr_d2.data import build_test_loader, build_train_loader
from detr_d2.engine import Predictor, claimed_folder, load_config

LAUGHS = "a: &a [1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{chr(ord(name) - 1)}'] * 9)}]\n" for name in "bcdefghij"
)
CONFIGS = {
    "code": ("SEED: !!python/object/apply:os.system [true]\n", "asks for something that could run code"),
    "code in a key": ("? !!python/name:os.system\n: 1\n", "asks for something that could run code"),
    "aliases": (LAUGHS, "larger or deeper than any config"),
    "aliases in a list of datasets": (f"{LAUGHS}DATASETS: {{CUSTOM: *j}}\n", "larger or deeper than any config"),
    "itself": ("SEED: &a [*a]\n", "larger or deeper than any config"),
    "deep lists": ("SEED: " + "[" * 100_000, "is no yaml config"),
    "deep mappings": ("".join(f"{' ' * i}a:\n" for i in range(200)), "larger or deeper than any config"),
    "many nodes": ("SEED: [" + "1," * 200_000 + "]", "larger or deeper than any config"),
    "large text": ("SEED: '" + "a" * 50_000_000 + "'", "larger or deeper than any config"),
    "many digits": ("SEED: " + "9" * 400_000 + "\n", "is no yaml config"),
    "a date that is none": ("SEED: 2026-13-45\n", "is no yaml config"),
    "a long key": ("? " + "a" * 400_000 + "\n: 1\n", "There is no config key a{100} "),
    "no mapping": ("[1, 2]\n", "is no yaml config"),
    "base as a number": ("_BASE_: 3\n", "is no yaml config"),
    "many bases": ("_BASE_: [" + "config.yaml, " * 30 + "]\n", "leads back to itself"),
    "base by URL": ("_BASE_: https://example.org/base.yaml\n", "takes nothing from the network"),
    "base in a pipe": ("_BASE_: pipe\n", "pipe is a pipe"),
    "base without end": ("_BASE_: /dev/zero\n", "/dev/zero is a pipe, a socket or a device"),
    "secret base": ("_BASE_: secret\n", "is no yaml config"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    (tmp_path / "model.pth").write_bytes(b"")
    (tmp_path / "secret").write_text("root:$6$salt: *hash:\n\tsecond\n")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(os, "system", lambda command: pytest.fail(f"ran {command}"))
    return tmp_path


@pytest.mark.parametrize("case", CONFIGS)
def test_configs_beside_weights(folder, refused, case):
    content, match = CONFIGS[case]
    (folder / "config.yaml").write_text(content)
    for read in (load_config, lambda path: Predictor(folder / "model.pth")):
        with refused(match) as caught:
            read(str(folder / "config.yaml"))
        assert caught is None or "salt" not in str(caught)


def test_a_config_of_ones_own_may_build_on_a_url(tmp_path, monkeypatch):
    (tmp_path / "base.yaml").write_text("SEED: 7\n")
    (tmp_path / "own.yaml").write_text("_BASE_: https://example.org/base.yaml\n")
    fetched = {"https://example.org/base.yaml": str(tmp_path / "base.yaml")}
    monkeypatch.setattr(PathManager, "get_local_path", lambda path: fetched.get(path, path))
    assert load_config(str(tmp_path / "own.yaml")).SEED == 7


@pytest.mark.parametrize("name", ["last_checkpoint", "config.yaml"])
def test_a_run_that_is_gone_on_with_may_hold_pipes(folder, refused, name):
    os.mkfifo(folder / name)
    with refused(f"{name} is a pipe"), claimed_folder(load_config("", ["OUTPUT_DIR", str(folder)]), resume=True):
        pass


def test_an_evaluation_of_the_last_checkpoint_does_not_wait_for_a_pipe(folder, refused):
    os.mkfifo(folder / "last_checkpoint")
    with refused("last_checkpoint is a pipe"):
        DetrCheckpointer(nn.Linear(1, 1), str(folder)).resume_or_load("", resume=True)


def test_datasets_by_url(folder, refused, monkeypatch):
    """Their classes would be read when the config is."""
    fetched = []
    monkeypatch.setattr(PathManager, "get_local_path", lambda path: fetched.append(path) or path)
    entry = "{name: theirs, json_file: 'https://example.org/a.json', image_root: images}"
    (folder / "config.yaml").write_text(f"DATASETS: {{CUSTOM: [{entry}], TRAIN: [theirs]}}\n")
    config = str(folder / "config.yaml")
    with refused(r"names https://example\.org/a\.json in DATASETS\.CUSTOM: .* takes nothing from the network"):
        load_config(config)
    assert fetched == [config]
    assert load_config(config, ["DATASETS.CUSTOM", "[]"]).DATASETS.CUSTOM == []


def test_files_of_proposals_are_not_unpickled(shapes_root, folder, repo):
    """Detectron2's mapper would read them, from wherever a config says."""
    (folder / "evil.pkl").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    words = ["INPUT.DATASET_MAPPER", "", "MODEL.LOAD_PROPOSALS", "True"]
    words += [
        "DATASETS.PROPOSAL_FILES_TRAIN",
        f"('{folder}/evil.pkl',)",
        "DATASETS.PROPOSAL_FILES_TEST",
        "('evil.pkl',)",
    ]
    cfg = load_config(str(repo / "configs" / "Shapes" / "detr_R_18.yaml"), words)
    for build in (build_train_loader, lambda cfg: build_test_loader(cfg, "shapes_val")):
        with pytest.raises(ValueError, match="LOAD_PROPOSALS is on, but files of proposals are pickles"):
            build(cfg)


def test_names_that_stand_for_one_value_stay_one(tmp_path):
    """What yaml writes of a cfg may hold aliases."""
    (tmp_path / "config.yaml").write_text("SEED: &a 3\nMODEL:\n  DETR: {ENC_LAYERS: *a, DEC_LAYERS: *a}\n")
    assert load_config(str(tmp_path / "config.yaml")).MODEL.DETR.DEC_LAYERS == 3
