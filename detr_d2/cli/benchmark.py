"""Latency, throughput and peak memory of a config, alone or against ``transformers``' model of the same kind.

    python tools/benchmark.py --config-file configs/COCO-Detection/detr_R_50_300ep.yaml
    python tools/benchmark.py --config-file ... --reference transformers --mode both --threads 2 --output benchmark.json
    python tools/benchmark.py --config-file ... --mode train --batch-size 8 --amp SOLVER.AMP.PRECISION bfloat16
    python tools/benchmark.py --operator ms_deform_attn --reference transformers --mode both --threads 2

Inference goes from uint8 images to Detectron2's ``Instances``: normalising, padding and post-processing are in the
time. A training step is forward, matching, losses, backward, gradient clipping and the optimizer's step.

With ``--reference transformers`` both models hold the same weights, read the same images and take turns: every round
times the one, then the other, and the ratio is the median over rounds. The run first proves in fp32 that logits, boxes
and detections agree within 1e-3, and ends with an error if they do not. The reference's inference is timed for less
than ours: it is given normalised, padded tensors on the device. In training it computes its auxiliary losses for the
same amount of work, but their values are wrong in ``transformers``' DETR (normed outputs are fed back into the
decoder), so losses are not compared.

All Deformable DETRs are compared as well; of the two-stage one the reference gets the loss of proposals that it lacks:

    python tools/benchmark.py --config-file configs/COCO-Detection/deformable_detr_R_50.yaml --reference transformers \\
        --mode both --threads 2

A panoptic config is compared with ``transformers``' DetrForSegmentation and its panoptic post-processing:

    python tools/benchmark.py --config-file configs/COCO-PanopticSegmentation/panoptic_detr_R_50.yaml --objects 15 \\
        --reference transformers --threads 2 MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE 0.85

By default "instances" hold the masks of every query, as the published mask AP needs; the reference's post-processing
gives none. The score floor above leaves the masks of the segments alone, which is what both are compared on. Random
class heads are scaled so that 17 or 18 of 100 queries get into the panoptic map; mask logits and maps are compared too.

With ``--reference torchvision`` the same holds of torchvision's FCOS, for ``fcos_torchvision_R_50.yaml`` and configs
like it; what agrees are logits, distances and centerness, since its detections come from other locations.

``--reference onnxruntime`` and ``openvino`` run any model that tools/export.py exports, from a file of ONNX that is
made of the same weights for the same batch (--amp: OpenVINO's bf16). On a CPU, in inference; they end with boxes, and
logits of masks:

    python tools/benchmark.py --config-file ... --reference openvino --threads 1 MODEL.DEVICE cpu

Weights are random unless ``MODEL.WEIGHTS`` is among the overrides. Memory is measured in a process of its own each, as
growth over what the model and its batch hold (detr_d2/measure/memory.py says how).

``--operator`` measures one operator alone, at the size of the encoder (detr_d2/measure/operator.py), on a GPU where
there is one, with the share of memory bandwidth that it reaches. DETR_D2_MS_DEFORM_ATTN chooses its backend, --amp
takes its values in bf16. Its --reference is ``transformers``, the package ``deformops``, or a backend of ours by name.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from ..command_line import ToolParser, check_output, command_line_tool, positive
from ..files import whole_file
from ..measure.benchmark import MODES, Repeats, benchmark_model, model_markdown
from ..measure.inputs import Settings
from ..measure.operator import (
    OPERATOR_REFERENCES,
    OPERATORS,
    OperatorSettings,
    benchmark_operator,
    operator_markdown,
)
from ..measure.references import ENGINES, REFERENCES


@command_line_tool
def main(argv: Sequence[str] | None = None) -> int:
    args = parse_args(argv)
    if args.output:
        check_output(args.output)
        if not args.output.parent.is_dir():
            raise FileNotFoundError(f"--output: there is no folder {str(args.output.parent)!r}.")
    try:
        modes = MODES if args.mode == "both" else (args.mode,)
        repeats = Repeats(args.rounds, args.iters, args.warmup, memory=not args.no_memory)
        if args.operator:
            report = benchmark_operator(operator_settings(args), modes, repeats)
        else:
            report = benchmark_model(model_settings(args), modes, repeats)
    except (ImportError, RuntimeError) as error:  # no transformers; a backend that cannot run here; too little memory
        raise ValueError(str(error)) from error
    if args.output:
        with whole_file(args.output) as partial:
            partial.write_text(json.dumps(report, indent=2) + "\n")
    print(operator_markdown(report) if args.operator else model_markdown(report))
    return 0


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ToolParser(__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config-file", metavar="FILE", help="a yaml of this package or of Detectron2")
    what.add_argument("--operator", choices=OPERATORS, help="one operator alone")
    parser.add_argument("--mode", choices=[*MODES, "both"], default="inference", help="what to time (%(default)s)")
    parser.add_argument(
        "--reference",
        metavar="NAME",
        default="none",
        help=f"what to measure beside it: a model beside one of {', '.join(REFERENCES)}; the operator beside one of "
        f"{', '.join(OPERATOR_REFERENCES)} (%(default)s)",
    )
    parser.add_argument(
        "--size",
        type=positive,
        nargs=2,
        action="append",
        metavar=("HEIGHT", "WIDTH"),
        help="of the images (800 1066); given several times, the images of a batch take them in turn",
    )
    parser.add_argument("--batch-size", type=positive, default=1, metavar="N", help="images (%(default)s)")
    parser.add_argument("--objects", type=positive, default=7, metavar="N", help="boxes per image (7; COCO has 7.3)")
    parser.add_argument("--rounds", type=positive, default=7, metavar="N", help="alternations (7)")
    parser.add_argument("--iters", type=positive, metavar="N", help="steps per round (1 on a CPU, 10 on a GPU)")
    parser.add_argument("--warmup", type=positive, metavar="N", help="uncounted steps (2 on a CPU, 10 on a GPU)")
    parser.add_argument(
        "--threads", type=positive, default=torch.get_num_threads(), metavar="N", help="on the CPU (%(default)s)"
    )
    parser.add_argument("--amp", action="store_true", help="mixed precision, in SOLVER.AMP.PRECISION")
    parser.add_argument("--seed", type=int, default=0, help="of weights, images and boxes (0)")
    parser.add_argument("--no-memory", action="store_true", help="do not measure memory")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="write every number there")
    parser.add_overrides()
    args = parser.parse_args(argv)
    references = OPERATOR_REFERENCES if args.operator else REFERENCES
    if args.reference not in references:
        parser.error(f"--reference {args.reference}: choose among {', '.join(references)}")
    if args.reference in ENGINES and args.mode != "inference":
        parser.error(f"--reference {args.reference} does not train: --mode inference")
    return args


def model_settings(args: argparse.Namespace) -> Settings:
    """What a model is measured with."""
    names = ("config_file", "batch_size", "objects", "reference", "amp", "threads", "seed")
    sizes = tuple(tuple(size) for size in args.size or [(800, 1066)])
    return Settings(opts=tuple(args.opts), sizes=sizes, **{name: getattr(args, name) for name in names})


def operator_settings(args: argparse.Namespace) -> OperatorSettings:
    """What an operator is measured with, on a GPU where there is one."""
    return OperatorSettings(
        precision="bfloat16" if args.amp else "float32",
        device="cuda" if torch.cuda.is_available() else "cpu",
        **{name: getattr(args, name) for name in ("reference", "batch_size", "threads", "seed")},
    )


if __name__ == "__main__":
    sys.exit(main())
