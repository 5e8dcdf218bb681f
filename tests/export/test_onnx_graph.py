"""What is made of torch's graphs, on a small one with the operators that matter."""

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.nn import functional as F

from detr_d2.export.onnx_graph import finish

EXAMPLE = (torch.rand(2, 3, 16, 24), torch.tensor([[16, 24], [12, 20]]))


class Small(nn.Module):
    """Attention with a mask, and the operators whose form changed from version to version."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(384, 128) / 10)  # more than optimizers fold of their own accord
        self.conv = nn.Conv2d(3, 128, 8, stride=8)

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        features = self.conv(images)
        rows = torch.arange(features.shape[-2], device=images.device)
        inside = (rows < -(-sizes[:, :1] // 8))[:, :, None].expand(-1, -1, features.shape[-1]).flatten(1)
        tokens = features.flatten(2).transpose(1, 2)
        q, k = F.linear(tokens, self.weight[:256]).chunk(2, dim=-1)
        out = F.scaled_dot_product_attention(*(x[:, None] for x in (q, k, k)), attn_mask=inside[:, None, None])[:, 0]
        out = out @ self.weight[256:]
        grid = torch.stack([inside.float(), inside.float() / 2], -1)[:, None]
        sampled = F.grid_sample(F.pad(features, (1, 1)), grid, align_corners=False)
        finer = F.interpolate(features, size=images.shape[-2:], mode="nearest")
        return out.amax(-1), sampled, finer[:, 0]


@pytest.fixture(scope="module")
def small() -> tuple[onnx.ModelProto, list[Tensor]]:
    """The graph as torch's exporter writes it, and what it gives for `EXAMPLE`."""
    torch.manual_seed(0)
    model = Small().eval()
    batch = Dim("s0")
    shapes = ({0: batch, 2: 8 * Dim("s1", min=1, max=64), 3: 8 * Dim("s2", min=1, max=64)}, {0: batch})
    program = torch.export.export(model, EXAMPLE, dynamic_shapes=shapes)
    written = torch.onnx.export(
        program, dynamo=True, opset_version=18, output_names=["a", "b", "c"], optimize=False, verbose=False
    )
    with torch.no_grad():
        return ir.serde.serialize_model(written.model), list(model(*EXAMPLE))


@pytest.mark.parametrize("opset", [17, 18, 19, 20])
def test_every_version(small, tmp_path: Path, opset: int):
    written, expected = small
    assert __file__.encode() in written.SerializeToString()  # what is not to be left
    model = ir.serde.deserialize_model(written)
    finish(model, opset, {"fact": "1"})
    path = tmp_path / "small.onnx"
    ir.save(model, path)

    onnx.checker.check_model(str(path), full_check=True)
    found = onnx.load(path)
    assert [(x.domain, x.version) for x in found.opset_import] == [("", opset)]
    assert [(x.key, x.value) for x in found.metadata_props] == [("fact", "1")]
    assert str(Path(__file__).parent).encode() not in path.read_bytes()
    session = onnxruntime.InferenceSession(path)
    assert [x.shape for x in session.get_inputs()] == [["batch", 3, "height", "width"], ["batch", 2]]
    assert session.get_outputs()[2].shape == ["batch", "height", "width"]
    results = session.run(None, {x.name: y.numpy() for x, y in zip(session.get_inputs(), EXAMPLE, strict=True)})
    for result, wanted in zip(results, expected, strict=True):
        np.testing.assert_allclose(result, wanted.numpy(), atol=1e-5)


def test_nothing_is_left_for_the_run_that_does_not_depend_on_the_inputs(small):
    model = ir.serde.deserialize_model(small[0])
    finish(model, 18, {})
    kinds = {node.op_type for node in model.graph}
    assert "Softmax" in kinds
    assert not kinds & {"IsNaN", "SplitToSequence", "SequenceAt"}
    known = [
        node.op_type for node in model.graph if node.inputs and all(x is None or x.const_value for x in node.inputs)
    ]
    assert known == []


def test_a_version_that_cannot_be_written(small):
    with pytest.raises(ValueError, match="--opset 16: this model cannot be changed from 18"):
        finish(ir.serde.deserialize_model(small[0]), 16, {})
