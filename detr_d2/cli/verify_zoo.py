"""Do published weights give published figures here? For who has a network, and COCO.

    python tools/verify_zoo.py --output output/zoo
    python tools/verify_zoo.py COCO-Detection/detr_R_50_500ep --output output/zoo --no-evaluation

Each model of the zoo is fetched and loaded. Where other projects' tests say what its weights give for one image of COCO
(000000039769.jpg), its outputs are compared; where COCO is in DETECTRON2_DATASETS, it is evaluated, and compared with
TEST.EXPECTED_RESULTS of its config. What cannot be fetched or evaluated is listed with its reason. The status is 1
where a figure or an output differs. DETR_D2_MODEL_ZOO names a folder with the files, in place of their addresses.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.utils.file_io import PathManager
from tabulate import tabulate
from torch import nn

from .. import model_zoo
from ..checkpoint.published import CHECKPOINTS
from ..command_line import MENDABLE, ToolParser, check_output_folder, command_line_tool
from ..engine import Trainer, load_trained_model, prepare_device
from ..files import whole_file
from ..measure.expected import ADDRESS, EXPECTED, IMAGE, TOLERANCE, differences

HEADERS = ("config", "published", "measured here", "largest difference of outputs", "")


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    check_output_folder(args.output)
    args.output.mkdir(parents=True, exist_ok=True)
    rows = []
    for name in args.names or CHECKPOINTS:
        print(f"{name} ...", file=sys.stderr)
        rows.append(verified(name, args))
        with whole_file(args.output / "zoo.md") as partial:
            partial.write_text(tabulate(rows, HEADERS, tablefmt="pipe") + "\n", encoding="utf-8")
    print(tabulate(rows, HEADERS))
    return int(any(row[-1].startswith("differs") for row in rows))


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="configs of the zoo (default: all with weights)")
    parser.add_argument("--output", required=True, type=Path, metavar="FOLDER", help="of zoo.md and of predictions")
    parser.add_argument("--image", default="", metavar="FILE", help=f"{IMAGE} (default: of COCO, or its address)")
    parser.add_argument("--no-evaluation", action="store_true", help="compare outputs alone")
    parser.add_overrides()
    args = parser.parse_args(argv)
    for name in args.names:
        model_zoo.get_config_file(name)
    args.names = [name.removesuffix(".yaml") for name in args.names]
    return args


def verified(name: str, args: argparse.Namespace) -> tuple[str, ...]:
    """The row of one model. No error of a model ends the work on the others."""
    published = outputs = measured = ""
    words: list[str] = []
    try:
        published = figures(model_zoo.get_config(name).TEST.EXPECTED_RESULTS)
        cfg = model_zoo.get_config(name, trained=True)
        cfg.merge_from_list([*args.opts, "OUTPUT_DIR", str(args.output / name)])
        prepare_device(cfg)
        model = load_trained_model(cfg)
        if name in EXPECTED:
            found = differences(name, cfg, model, image_file(args.image))
            outputs = ", ".join(f"{key} {value:.1g}" for key, value in found.items())
            if any(not value <= TOLERANCE[key] for key, value in found.items()):
                words.append("differs in outputs")
        if not args.no_evaluation:
            measured, problem = evaluated(cfg, model)
            words += [problem] if problem else []
    except (*MENDABLE, RuntimeError, ImportError) as error:
        words.append(str(error).splitlines()[0])
    words.sort(key=lambda word: not word.startswith("differs"))
    return name, published, measured, outputs, "; ".join(words) or ("equal" if measured or outputs else "loads")


def figures(expected: Sequence[Sequence]) -> str:
    return ", ".join(f"{task} {metric} {value}" for task, metric, value, _ in expected)


def image_file(given: str) -> Path:
    """The image: the file that was given, COCO's where it lies, or else what its address gives."""
    if given:
        return Path(given)
    root = Path(MetadataCatalog.get("coco_2017_val").image_root)
    return root / IMAGE if (root / IMAGE).is_file() else Path(PathManager.get_local_path(ADDRESS))


def evaluated(cfg: CfgNode, model: nn.Module) -> tuple[str, str]:
    """The figures that are published, as measured here, and what is wrong with them or why there are none."""
    for name in cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(name)
        file = metadata.get("panoptic_json") or metadata.get("json_file")
        if file and not Path(file).is_file():
            return "", f"not evaluated: there is no {file}"
    results = Trainer.test(cfg, model)
    found, differs = [], False
    for task, metric, published, limit in cfg.TEST.EXPECTED_RESULTS:
        value = results[task][metric]
        found.append((task, metric, round(value, 2), limit))
        differs |= not abs(value - published) <= limit
    return figures(found), "differs in figures" if differs else ""


if __name__ == "__main__":
    sys.exit(main())
