import torch

from detr_d2.structures import Matches, Targets


def make() -> Targets:
    labels = [torch.tensor([3, 1]), torch.zeros(0, dtype=torch.int64), torch.tensor([2])]
    return Targets.from_lists(labels, [torch.ones(2, 4), torch.zeros(0, 4), torch.full((1, 4), 0.5)])


def test_objects_are_padded_to_one_number() -> None:
    targets = make()
    assert targets.labels.tolist() == [[3, 1], [0, 0], [2, 0]]
    assert targets.boxes.shape == (3, 2, 4)
    assert not targets.boxes[1].any()
    assert targets.counts == [2, 0, 1]


def test_boxes_are_optional() -> None:
    targets = Targets.from_lists([torch.tensor([3, 1]), torch.tensor([2])], None)
    assert targets.boxes is None
    assert targets.masks is None
    assert targets.labels.tolist() == [[3, 1], [2, 0]]


def test_places_among_all_objects() -> None:
    targets = make()
    assert targets.image_of_object.tolist() == [0, 0, 2]
    image, target = torch.tensor([2, 0, 0]), torch.tensor([0, 1, 0])
    assert targets.flat_index(image, target).tolist() == [2, 1, 0]


def test_layers_of_matches_index_predictions() -> None:
    matches = Matches(torch.tensor([0, 1]), torch.tensor([[4, 2], [0, 1]]), torch.tensor([[0, 0], [0, 0]]))
    values = torch.randn(2, 2, 5)
    found = values[matches.layer, matches.batch, matches.query]
    assert torch.equal(found, torch.stack([values[0, [0, 1], [4, 2]], values[1, [0, 1], [0, 1]]]))
