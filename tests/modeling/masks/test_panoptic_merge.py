import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from detr_d2.modeling.masks.panoptic_merge import instance_masks, merge_panoptic, resample

THINGS = {0, 1}


def merge(logits: Tensor, classes: list[int], image_size=(16, 16), output_size=(16, 16), small_area: int = 4):
    classes = torch.tensor(classes, dtype=torch.int64)
    scores = torch.linspace(0.9, 0.99, len(classes))
    is_thing = torch.tensor([c in THINGS for c in classes.tolist()], dtype=torch.bool)
    return merge_panoptic(logits, scores, classes, is_thing, image_size, output_size, small_area)


def merge_by_loops(logits: Tensor, classes: list[int], image_size, output_size, small_area: int = 4):
    """The published procedure in plain Python: (category, area) of each segment, and the map of their positions."""
    height, width = output_size
    full = F.interpolate(logits[None], size=image_size, mode="bilinear", align_corners=False)[0].tolist()
    alive, merged = list(range(len(classes))), True
    while True:
        ids = np.zeros(image_size, dtype=np.uint8)
        for y in range(image_size[0]):
            for x in range(image_size[1]):
                best = 0
                for position, query in enumerate(alive):
                    if full[query][y][x] > full[alive[best]][y][x]:
                        best = position
                ids[y, x] = best
        if merged:
            first = {}
            for position, query in enumerate(alive):
                if classes[query] not in THINGS:
                    ids[ids == position] = first.setdefault(classes[query], position)
        result = np.asarray(Image.fromarray(ids).resize((width, height), Image.Resampling.NEAREST))
        areas = [int((result == position).sum()) for position in range(len(alive))]
        large = [query for query, area in zip(alive, areas, strict=True) if area > small_area]
        if len(large) == len(alive):
            return result, [(classes[query], area) for query, area in zip(alive, areas, strict=True)]
        alive, merged = large, False


def half(left: float, right: float) -> Tensor:
    """4 x 4 logits of two halves."""
    return torch.tensor([left, left, right, right]).expand(4, 4)


def random_case(seed: int) -> tuple[Tensor, list[int], tuple[int, int], int]:
    """Logits, classes, output size and small area."""
    generator = torch.Generator().manual_seed(seed)
    count = int(torch.randint(1, 12, (), generator=generator))
    logits = 3 * torch.randn(count, 5, 6, generator=generator)
    classes = torch.randint(0, 5, (count,), generator=generator).tolist()
    return logits, classes, [(19, 23), (31, 40), (11, 7)][seed % 3], [4, 40][seed % 2]


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_published_procedure(seed: int) -> None:
    logits, classes, output_size, small_area = random_case(seed)
    panoptic, info = merge(logits, classes, (19, 23), output_size, small_area)
    expected, segments = merge_by_loops(logits, classes, (19, 23), output_size, small_area)
    assert [(s["category_id"], s["area"]) for s in info] == segments
    assert [s["id"] for s in info] == list(range(1, len(segments) + 1))
    np.testing.assert_array_equal(panoptic.numpy(), expected + 1 if segments else np.zeros(output_size))


def test_the_random_cases_merge_and_remove() -> None:
    merged, removed = 0, 0
    for seed in range(12):
        logits, classes, output_size, small_area = random_case(seed)
        stuff = [c for c in classes if c not in THINGS]
        merged += len(stuff) > len(set(stuff))
        _, info = merge(logits, classes, (19, 23), output_size, small_area)
        removed += len(info) < len(classes) - len(stuff) + len(set(stuff))
    assert merged > 2
    assert removed > 2


def test_segments_info() -> None:
    panoptic, info = merge(torch.stack([half(5, -5), half(-5, 5)]), [1, 3])
    assert panoptic.dtype == torch.int32
    assert panoptic.shape == (16, 16)
    assert info == [
        {"id": 1, "isthing": True, "category_id": 1, "score": pytest.approx(0.9), "area": 128},
        {"id": 2, "isthing": False, "category_id": 3, "score": pytest.approx(0.99), "area": 128},
    ]
    assert all(isinstance(s["isthing"], bool) and isinstance(s["area"], int) for s in info)
    assert (panoptic[:, :8] == 1).all()
    assert (panoptic[:, 8:] == 2).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_classes_do_not_depend_on_the_precision_of_scores(dtype: torch.dtype) -> None:
    classes, scores = torch.tensor([1203, 2049]), torch.tensor([0.5, 0.75], dtype=dtype)
    logits = torch.zeros(2, 8, 8)
    logits[0, :4] = logits[1, 4:] = 1.0
    _, info = merge_panoptic(logits, scores, classes, torch.tensor([True, False]), (8, 8), (8, 8))
    assert [(each["category_id"], each["isthing"], each["score"]) for each in info] == [
        (1203, True, 0.5),
        (2049, False, 0.75),
    ]


def test_stuff_of_one_class_becomes_one_segment_things_do_not() -> None:
    """The duplicate is then removed, and the map computed again without the merge: its pixels go to the next best."""
    stuff = torch.stack([half(5, -5), half(-5, 5), half(-6, -6)])
    _, info = merge(stuff, [3, 3, 0])
    # Of the right half the first mask is stronger (-5) than the thing (-6).
    assert [(s["category_id"], s["area"]) for s in info] == [(3, 256)]
    _, info = merge(stuff, [1, 1, 0])
    assert [(s["category_id"], s["area"]) for s in info] == [(1, 128), (1, 128)]


def test_pixels_of_a_removed_duplicate_may_go_to_another_class() -> None:
    other = half(-6, -4).clone()
    other[0] = 7  # else it would have no area while the duplicate is there, and be removed with it
    panoptic, info = merge(torch.stack([half(5, -5), half(-5, 5), other]), [3, 3, 0])
    assert [s["category_id"] for s in info] == [3, 0]
    assert (panoptic[:, 10:] == 2).all()
    assert (panoptic[8:, :6] == 1).all()


def test_tiny_segments_go_to_the_next_best() -> None:
    tiny = torch.full((16, 16), -9.0)
    tiny[3, 3:7] = 9.0
    background, other = torch.full((16, 16), 1.0), torch.full((16, 16), 0.0)
    panoptic, info = merge(torch.stack([tiny, background, other]), [0, 3, 4])
    assert [(s["category_id"], s["area"]) for s in info] == [(3, 256)]
    assert (panoptic == 1).all()
    tiny[3, 7] = 9.0
    _, info = merge(torch.stack([tiny, background]), [0, 3])
    assert [(s["category_id"], s["area"]) for s in info] == [(0, 5), (3, 251)]


def test_nothing_kept() -> None:
    panoptic, info = merge(torch.zeros(0, 4, 4), [], output_size=(20, 30))
    assert info == []
    assert panoptic.shape == (20, 30)
    assert panoptic.dtype == torch.int32
    assert not panoptic.any()


def test_nothing_left() -> None:
    panoptic, info = merge(torch.zeros(2, 4, 4), [0, 3], small_area=400)
    assert info == []
    assert not panoptic.any()


@pytest.mark.parametrize(("size", "output"), [((37, 53), (24, 91)), ((480, 635), (331, 501)), ((7, 5), (70, 3))])
def test_nearest_pixels_are_pils_for_maps_and_torchs_for_masks(size, output) -> None:
    values = torch.arange(size[0] * size[1], dtype=torch.float32).view(size)
    pil = Image.fromarray(values.numpy()).resize(output[::-1], Image.Resampling.NEAREST)
    np.testing.assert_array_equal(resample(values[None], size, output, "nearest-exact")[0], np.asarray(pil))
    expected = F.interpolate(values[None, None], size=output, mode="nearest")[0]
    torch.testing.assert_close(resample(values[None], size, output, "nearest"), expected)


@pytest.mark.parametrize("chunk_size", [1, 2, 10])
def test_instance_masks(chunk_size: int) -> None:
    logits = torch.randn(5, 6, 7)
    masks = instance_masks(logits, (23, 27), (40, 30), chunk_size)
    full = F.interpolate(logits[None], size=(23, 27), mode="bilinear", align_corners=False).sigmoid() > 0.5
    expected = F.interpolate(full.float(), size=(40, 30), mode="nearest")[0].bool()
    assert torch.equal(masks, expected)
    assert instance_masks(logits[:0], (23, 27), (40, 30), chunk_size).shape == (0, 40, 30)
