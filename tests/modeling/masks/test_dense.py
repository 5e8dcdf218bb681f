import torch

from detr_d2.modeling.masks.dense import dense_class_loss


def make(size=(6, 8)):
    """Two images, three classes: the left half of the first is class 2, of the second a quarter 0 and a quarter 1."""
    masks = torch.zeros(3, 12, 16, dtype=torch.bool)
    masks[0, :, :8] = True
    masks[1, :6, 8:] = True
    masks[2, 6:, 8:] = True
    torch.manual_seed(0)
    return torch.randn(2, 3, *size), masks, torch.tensor([2, 0, 1]), torch.tensor([0, 1, 1])


def test_equals_the_cross_entropy_of_the_cells_that_have_a_class() -> None:
    logits, masks, labels, batch = make()
    classes = torch.full((2, 6, 8), -100)
    classes[0, :, :4], classes[1, :3, 4:], classes[1, 3:, 4:] = 2, 0, 1
    expected = torch.nn.functional.cross_entropy(logits, classes, ignore_index=-100)
    torch.testing.assert_close(dense_class_loss(logits, masks, labels, batch), expected)


def test_a_cell_of_several_classes_weighs_each_by_its_area() -> None:
    logits, masks, labels, batch = make(size=(1, 1))
    log = logits.log_softmax(1)[..., 0, 0]
    expected = -(0.5 * log[0, 2] + 0.25 * log[1, 0] + 0.25 * log[1, 1])
    torch.testing.assert_close(dense_class_loss(logits, masks, labels, batch), expected)


def test_no_object_gives_no_loss_but_a_gradient() -> None:
    logits = make()[0].requires_grad_()
    loss = dense_class_loss(
        logits, torch.zeros(0, 12, 16, dtype=torch.bool), torch.zeros(0).long(), torch.zeros(0).long()
    )
    loss.backward()
    assert loss == 0
    assert (logits.grad == 0).all()
