import torch

from detr_d2.modeling import DetectionOutputs


def test_last_layer_and_auxiliary_layers() -> None:
    logits, boxes = torch.randn(3, 2, 5, 4), torch.rand(3, 2, 5, 4)
    outputs = DetectionOutputs(logits, boxes)
    assert torch.equal(outputs.pred_logits, logits[2])
    assert torch.equal(outputs.pred_boxes, boxes[2])
    assert len(outputs.aux_outputs) == 2
    for layer, aux in enumerate(outputs.aux_outputs):
        assert torch.equal(aux.pred_logits, logits[layer])
        assert torch.equal(aux.pred_boxes, boxes[layer])
        assert aux.aux_outputs == []
