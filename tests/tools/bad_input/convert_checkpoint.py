from pathlib import Path

import torch

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


CASES = [
    (
        "a checkpoint that does not exist",
        lambda folder: [f"{folder}/none.pth", f"{folder}/out.pth"],
        ("no checkpoint file", "none.pth"),
    ),
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
        "weights of an unknown model",
        lambda folder: with_file(folder, {"a.weight": torch.zeros(2)}, "{}/out.pth"),
        ("layout of these weights is unknown", "a.weight"),
    ),
    (
        "an output that is there already",
        lambda folder: with_file(folder, WEIGHTS, "{}/in.pth"),
        ("exists", "--force"),
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
