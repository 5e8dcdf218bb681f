"""The README's example of own data, as a script; tests/docs/test_pages.py checks what else it says."""

import re
from pathlib import Path

from detr_d2.engine import load_config

REPO = Path(__file__).resolve().parents[1]
README = (REPO / "README.md").read_text()


def test_the_example_of_own_data_runs(monkeypatch, shapes_root, tmp_path):
    """The README's script, on Shapes' files, from no weights, for a step."""
    code = "\n".join(re.findall(r"^    ((?:from|import|register|cfg|trainer|    |\]).*)$", README, re.MULTILINE))
    assert "register_coco_instances" in code
    assert "trainer.train()" in code
    small = ["SOLVER.MAX_ITER", "1", "SOLVER.IMS_PER_BATCH", "2", "MODEL.DEVICE", "cpu", "DATALOADER.NUM_WORKERS", "0"]
    small += ["OUTPUT_DIR", str(tmp_path), "INPUT.MIN_SIZE_TRAIN", "(64,)", "INPUT.MIN_SIZE_TEST", "64"]
    small += ["INPUT.CROP.ENABLED", "False", "MODEL.DETR.ENC_LAYERS", "1", "MODEL.DETR.DEC_LAYERS", "1"]
    for old, new in {
        '"mine/train.json", "mine/images"': repr((str(shapes_root / "shapes/annotations/instances_train.json"),))[1:-2]
        + f", {str(shapes_root / 'shapes/train')!r}",
        '"MODEL.DETR.NUM_CLASSES", "3"': '"MODEL.DETR.NUM_CLASSES", "4"',
        '"detr-r50-e632da11.pth"': '""',
        '"configs/': f'"{REPO}/configs/',
        "\n])": f"\n    *{small!r}\n])",
    }.items():
        assert old in code
        code = code.replace(old, new)
    namespace: dict = {}
    exec(compile(code, "README.md", "exec"), namespace)
    assert (tmp_path / "model_final.pth").is_file()
    assert namespace["cfg"].MODEL.REINIT_CLASS_HEAD is True
    assert load_config().MODEL.REINIT_CLASS_HEAD is False
