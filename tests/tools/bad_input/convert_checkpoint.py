import json
from pathlib import Path

import torch

CONFIGS = Path(__file__).resolve().parents[3] / "configs"
DETR = str(CONFIGS / "COCO-Detection" / "detr_R_50_300ep.yaml")


WEIGHTS = {"backbone.0.body.conv1.weight": torch.zeros(2), "transformer.decoder.norm.weight": torch.zeros(4)}
WEIGHTS |= {"query_embed.weight": torch.zeros(3, 2), "class_embed.weight": torch.zeros(92, 2)}
WEIGHTS |= {"class_embed.bias": torch.zeros(92)}


def with_file(folder: Path, content: bytes | dict, *words: str) -> list[str]:
    """``in.pth`` with some content, and the words of the command line behind its name."""
    if isinstance(content, dict):
        torch.save({"model": content}, folder / "in.pth")
    else:
        (folder / "in.pth").write_bytes(content)
    return [f"{folder}/in.pth", *(word.format(folder) for word in words)]


def weights(folder: Path, state: dict | None = None) -> str:
    torch.save({"model": state or {"a.weight": torch.ones(2)}}, folder / "in.pth")
    return f"{folder}/in.pth"


def hugging_folder(folder: Path, content: dict[str, bytes]) -> str:
    (folder / "in").mkdir()
    for name, data in content.items():
        (folder / "in" / name).write_bytes(data)
    return f"{folder}/in"


def config_of(model_type: str) -> bytes:
    return json.dumps({"model_type": model_type}).encode()


def to_huggingface(folder: Path, config: str, *overrides: str) -> list[str]:
    return [weights(folder), f"{folder}/out", "--to", "huggingface", "--config-file", config, *overrides]


def with_file_as_output(folder: Path) -> list[str]:
    (folder / "out").write_text("mine")
    return to_huggingface(folder, DETR)


def with_full_folder_as_output(folder: Path) -> list[str]:
    (folder / "out").mkdir()
    (folder / "out" / "config.json").write_text("mine")
    return to_huggingface(folder, DETR)


CASES = [
    (
        "weights that do not exist",
        lambda folder: [f"{folder}/none.pth", f"{folder}/out.pth"],
        ("none.pth",),
    ),
    (
        "weights of an unknown layout",
        lambda folder: [weights(folder), f"{folder}/out.pth"],
        ("layout of these weights is unknown", "a.weight"),
    ),
    (
        "an empty folder",
        lambda folder: [hugging_folder(folder, {}), f"{folder}/out.pth"],
        ("without config.json",),
    ),
    (
        "a folder of another model",
        lambda folder: [hugging_folder(folder, {"config.json": config_of("yolos")}), f"{folder}/out.pth"],
        ("config.json", "'yolos'", "deformable_detr"),
    ),
    (
        "truncated safetensors",
        lambda folder: [
            hugging_folder(folder, {"config.json": config_of("detr"), "model.safetensors": b"\x40\0\0\0\0\0\0\0{"}),
            f"{folder}/out.pth",
        ],
        ("model.safetensors", "truncated or damaged"),
    ),
    (
        "huggingface without a config",
        lambda folder: [weights(folder), f"{folder}/out", "--to", "huggingface"],
        ("--config-file",),
    ),
    (
        "COCO's ids for huggingface",
        lambda folder: to_huggingface(folder, DETR, "--class-ids", "coco"),
        ("--class-ids",),
    ),
    (
        "a config for another layout",
        lambda folder: [weights(folder), f"{folder}/out.pth", "--config-file", DETR],
        ("--config-file", "--to huggingface"),
    ),
    (
        "a config that does not exist",
        lambda folder: to_huggingface(folder, f"{folder}/none.yaml"),
        ("none.yaml",),
    ),
    (
        "an unknown config key",
        lambda folder: to_huggingface(folder, DETR, "MODEL.DETR.NUM_CLASS", "3"),
        ("MODEL.DETR.NUM_CLASS", "MODEL.DETR.NUM_CLASSES"),
    ),
    (
        "a config that config.json cannot hold",
        lambda folder: to_huggingface(folder, str(CONFIGS / "Shapes" / "detr_R_18.yaml")),
        ("MODEL.DETR.PRE_NORM", "config.json"),
    ),
    (
        "a model that transformers does not have",
        lambda folder: to_huggingface(folder, str(CONFIGS / "COCO-Detection" / "fcos_R_50_1x.yaml")),
        ("MODEL.META_ARCHITECTURE", "FCOS"),
    ),
    (
        "the checkpoint of another model",
        lambda folder: to_huggingface(folder, DETR),
        ("in.pth", "holds no tensor of the model"),
    ),
    ("a file as the output", with_file_as_output, ("out is a file",)),
    ("a folder that is in use", with_full_folder_as_output, ("out exists", "--overwrite")),
    (
        "a web page",
        lambda folder: with_file(folder, b"<html>404</html>", "{}/out.pth"),
        ("in.pth", "HTML"),
    ),
    (
        "a file that was cut off",
        lambda folder: with_file(folder, b"PK\x03\x04 and then nothing", "{}/out.pth"),
        ("in.pth",),
    ),
    (
        "an output that is there already",
        lambda folder: with_file(folder, WEIGHTS, "{}/in.pth"),
        ("exists", "--overwrite"),
    ),
    (
        "an output in a folder that is not there",
        lambda folder: with_file(folder, WEIGHTS, "{}/no/out.pth"),
        ("no of the output does not exist",),
    ),
    (
        "an unknown layout to write",
        lambda folder: with_file(folder, WEIGHTS, "{}/out.pth", "--to", "detrex"),
        ("invalid choice", "detrex"),
    ),
]
