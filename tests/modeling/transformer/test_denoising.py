from itertools import pairwise

import pytest
import torch
from torchvision.ops import box_convert

from detr_d2.modeling.transformer.denoising import EPS, Denoising, DenoisingQueries, NoisedObjects
from detr_d2.modeling.transformer.query_selection import Queries
from detr_d2.structures import Predictions, Targets

OBJECT_QUERIES = Queries(torch.ones(2, 3, 16), None, torch.ones(2, 3, 4))


def make_targets(*counts: int) -> Targets:
    generator = torch.Generator().manual_seed(sum(counts))
    boxes = [0.3 + 0.3 * torch.rand(count, 4, generator=generator) for count in counts]
    return Targets.from_lists([torch.randint(7, (count,), generator=generator) for count in counts], boxes)


def draw(*counts: int, **settings: object) -> tuple[NoisedObjects, Targets]:
    torch.manual_seed(0)
    targets = make_targets(*counts)
    return Denoising(num_classes=7, **settings).draw(targets), targets


@pytest.mark.parametrize(("counts", "groups"), [((3, 1), 33), ((40,), 2), ((100, 7), 1), ((250,), 1), ((0, 0), 100)])
def test_as_many_groups_as_the_fullest_image_allows(counts: tuple[int, ...], groups: int) -> None:
    noised, _ = draw(*counts)
    assert noised.groups == groups
    assert noised.labels.shape == (len(counts), groups * 2 * max(counts))
    assert noised.is_used.sum(1).tolist() == [groups * 2 * count for count in counts]
    assert noised.is_positive.sum(1).tolist() == [groups * count for count in counts]


def test_without_negatives() -> None:
    noised, _ = draw(4, 2, contrastive=False)
    assert noised.labels.shape == (2, 25 * 4)
    assert torch.equal(noised.is_positive, noised.is_used)


def test_noise_of_classes_and_corners() -> None:
    """A quarter of the classes are drawn anew; corners of positives move by up to half the box's size, those of
    negatives by half to all of it.
    """
    noised, targets = draw(5, num_queries=20_000)
    labels = targets.labels.repeat(1, noised.groups * 2)
    assert (noised.labels != labels).float().mean().item() == pytest.approx(0.25 * 6 / 7, abs=0.01)
    boxes = targets.boxes.repeat(1, noised.groups * 2, 1)
    corners, noisy = (box_convert(x, "cxcywh", "xyxy") for x in (boxes, noised.boxes))
    moved = (noisy - corners).abs() / (boxes[..., 2:].repeat(1, 1, 2) / 2)
    inside = ((noisy > 0.01) & (noisy < 0.99)).all(-1)  # not cut off at the edges
    positive = moved[noised.is_positive & inside]
    assert (positive.min(), positive.max()) == pytest.approx((0, 1), abs=0.01)
    # Where the corners do not cross, which gives boxes without area.
    apart = noised.is_used & ~noised.is_positive & inside & (noised.boxes[..., 2:] > 2 * EPS).all(-1)
    assert (moved[apart].min(), moved[apart].max()) == pytest.approx((1, 2), abs=0.02)


def test_boxes_stay_within_the_image() -> None:
    noised, _ = draw(5, box_noise=10.0)
    assert noised.boxes.min() >= EPS * 0.99
    assert noised.boxes.max() <= 1 - EPS * 0.99


def test_who_sees_whom() -> None:
    """Image 0 has 2 objects and image 1 one: groups of 2 positives and 2 negatives, then 3 object queries."""
    noised, _ = draw(2, 1, num_queries=4)
    assert noised.groups == 2
    target = torch.zeros(2, 8, 16)
    queries = DenoisingQueries(noised, target).before(OBJECT_QUERIES)
    assert torch.equal(queries.target[:, 8:], torch.ones(2, 3, 16))
    assert torch.equal(queries.reference[:, :8], noised.boxes)
    mask = queries.attn_mask[:, 0]
    assert not mask[:, 8:, :8].any()  # object queries do not see the ground truth
    assert mask[:, :, 8:].all()
    of_full, of_other = mask[:, :8, :8]
    assert torch.equal(of_full, torch.block_diag(torch.ones(4, 4), torch.ones(4, 4)).bool())
    assert torch.equal(of_other, of_full & torch.tensor([True, False] * 4))  # slots without object are seen by nobody


def test_one_mask_for_all_images_where_all_slots_are_used() -> None:
    noised, _ = draw(2, 2, num_queries=4)
    queries = DenoisingQueries(noised, torch.zeros(2, 8, 16)).before(
        Queries(torch.ones(2, 3, 16), None, torch.ones(2, 3, 4))
    )
    assert queries.attn_mask.shape == (1, 1, 11, 11)


def test_loss_inputs() -> None:
    """Every used slot once; each positive with its own object, in every layer."""
    noised, targets = draw(2, 0, 3, num_queries=6)
    slots = noised.labels.shape[1]
    number = torch.arange(3 * slots, dtype=torch.float32).view(3, slots)
    every = Predictions(number[None, ..., None].expand(2, -1, -1, 7), targets.boxes.repeat(1, slots // 3, 1)[None])
    used, objects, matches = noised.loss_inputs(Predictions(every.logits, every.boxes.expand(2, -1, -1, -1)), targets)
    assert objects.counts == [5]
    assert used.logits.shape == (2, 1, noised.groups * 2 * 5, 7)
    assert used.logits[0, 0, :, 0].tolist() == number[noised.is_used].tolist()
    assert matches.query.shape == matches.target.shape == (2, noised.groups * 5)
    assert torch.equal(used.boxes[0, 0, matches.query[0]], objects.boxes[0, matches.target[0]])
    assert matches.target[0].bincount().tolist() == [noised.groups] * 5
    assert all(a < b for a, b in pairwise(matches.query[1].tolist()))


def test_without_any_object() -> None:
    noised, targets = draw(0, 0)
    queries = DenoisingQueries(noised, torch.zeros(2, 0, 16)).before(
        Queries(torch.ones(2, 3, 16), None, torch.ones(2, 3, 4))
    )
    assert queries.attn_mask.all()
    empty = Predictions(torch.zeros(2, 2, 0, 7), torch.zeros(2, 2, 0, 4))
    used, objects, matches = noised.loss_inputs(empty, targets)
    assert used.logits.shape == (2, 1, 0, 7)
    assert objects.counts == [0]
    assert matches.query.shape == (2, 0)
