"""What torch's exporter wrote, made into what other tools can read, quantise and run fast."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir

# Of the operators that torch's exporter writes.
TORCH_OPSET = 18
# Of the inputs; any may be fixed.
AXES = {"images": ("batch", "3", "height", "width"), "sizes": ("batch", "2")}


def finish(model: ir.Model, opset: int, facts: dict[str, str]) -> None:
    """Fold what does not depend on the inputs, change to the version, name the axes, and describe the model by
    ``facts`` alone, without the paths of the machine that it comes from. It is changed in place.

    Raises:
        ValueError: the model cannot be written in this version.
    """
    from onnx_ir.passes.common import ClearMetadataAndDocStringPass
    from onnxscript import optimizer, version_converter

    # Without limits, which leave the slices and transposes of large weights for the run, and out of quantisers' reach.
    optimizer.optimize(model, input_size_limit=2**31, output_size_limit=2**31)
    remove_nan_guards(model.graph)
    optimizer.remove_unused_nodes(model)
    if opset < TORCH_OPSET:
        to_opset_17(model)
    elif opset > TORCH_OPSET:
        version_converter.convert_version(model, opset)
    if model.opset_imports[""] != opset:
        raise ValueError(f"--opset {opset}: this model cannot be changed from {TORCH_OPSET}, which torch writes.")
    name_axes(model.graph)
    ClearMetadataAndDocStringPass()(model)
    for owner in (model, *model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        owner.metadata_props.clear()
    model.metadata_props.update(facts)


def remove_nan_guards(graph: ir.Graph) -> None:
    """Take softmax's results as they are. torch's attention makes zeros of a row that may look nowhere; every image has
    a pixel to look at, and the guard holds the largest tensor of all three times.
    """
    import onnx_ir as ir

    for guard in [node for node in graph if node.op_type == "IsNaN"]:
        softmax = guard.inputs[0]
        for choice in guard.outputs[0].consumers() if softmax.producer().op_type == "Softmax" else ():
            if choice.op_type == "Where" and choice.inputs[2] is softmax:
                ir.convenience.replace_all_uses_with(choice.outputs[0], softmax)


def to_opset_17(model: ir.Model) -> None:
    """Write torch's operators as they were before 18; onnx's own converter has no way back for `Split`."""
    import onnx_ir as ir

    for node in model.graph:
        if node.op_type == "Split":
            node.attributes.pop("num_outputs", None)  # as many as there are
        elif node.op_type == "Resize" and node.attributes.get_int("antialias", 0) == 0:
            node.attributes.pop("antialias", None)
            node.attributes.pop("keep_aspect_ratio_policy", None)  # is about sizes, which are given
        elif node.op_type.startswith("Reduce") and node.op_type != "ReduceSum" and len(node.inputs) > 1:
            node.attributes["axes"] = ir.AttrInt64s("axes", node.inputs[1].const_value.numpy().tolist())
            node.attributes.pop("noop_with_empty_axes", None)
            node.resize_inputs(1)
    model.opset_imports[""] = 17


def name_axes(graph: ir.Graph) -> None:
    """Call the free axes of inputs as in `AXES`, and name sizes of outputs by what they follow from."""
    import onnx_ir as ir

    names: dict[str, str] = {}
    for value in graph.inputs:
        names |= {str(s): name for s, name in zip(value.shape, AXES[value.name], strict=True) if not isinstance(s, int)}

    def named(size: int | ir.SymbolicDim) -> int | str:
        if isinstance(size, int):
            return size
        return names.get(str(size)) or re.sub(r"\w+", lambda word: names.get(word[0], word[0]), str(size))

    for value in (*graph.inputs, *graph.outputs):
        value.shape = ir.Shape(map(named, value.shape))
    for value in (value for node in graph for value in node.outputs if value not in graph.outputs):
        value.shape = None  # whose sizes have torch's names
