import pytest
import torch
from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Instances

from detr_d2.modeling import PanopticDETR
from detr_d2.solver import build_optimizer

QUERIES, CLASSES, THINGS = 12, 6, [0, 1, 4]
SIZES = [(65, 90), (48, 101)]
BOX_LOSSES = {f"loss_{name}{suffix}" for name in ("ce", "bbox", "giou") for suffix in ("", "_0", "_1")}
HEAD = ("mask_head.", "bbox_attention.")


@pytest.fixture
def cfg(small_detr_cfg: CfgNode) -> CfgNode:
    cfg = small_detr_cfg.clone()
    cfg.defrost()
    cfg.MODEL.META_ARCHITECTURE = "PanopticDETR"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.DETR.NUM_CLASSES = CLASSES
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = THINGS
    cfg.MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD = 0.3
    return cfg


@torch.no_grad()
def build(cfg: CfgNode) -> PanopticDETR:
    """With heads that tell the queries apart, which at the start are nearly the same."""
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    states = model.detect(model.preprocess(make_inputs())).hidden_states[-1].flatten(0, 1)
    torch.nn.init.normal_(model.detr.class_embed.weight, std=2 / states.std(0).norm().item())
    model.detr.class_embed.bias.copy_(-model.detr.class_embed.weight @ states.mean(0))
    model.bbox_attention.q_linear.weight.mul_(10 / states.std(0).norm())
    model.bbox_attention.q_linear.bias.copy_(-model.bbox_attention.q_linear.weight @ states.mean(0))
    model.mask_head.lay1.weight[:, model.mask_head.dim :] *= 1000
    return model.train()


def make_inputs(counts: tuple[int, ...] = (), sizes: list[tuple[int, int]] = SIZES) -> list[dict]:
    """Random images, with that many rectangular objects each if ``counts`` are given."""
    generator = torch.Generator().manual_seed(1)
    inputs = [{"image": torch.randint(0, 256, (3, *size), generator=generator, dtype=torch.uint8)} for size in sizes]
    for item, (height, width), count in zip(inputs, sizes, counts, strict=bool(counts)):
        masks = torch.zeros(count, height, width, dtype=torch.bool)
        for i in range(count):
            masks[i, 3 * i : 3 * i + 20, 5 * i : 5 * i + 30] = True
        instances = Instances((height, width))
        instances.gt_masks = BitMasks(masks)
        instances.gt_boxes = instances.gt_masks.get_bounding_boxes()
        instances.gt_classes = torch.randint(0, CLASSES, (count,), generator=generator)
        item["instances"] = instances
    return inputs


def test_joint_training_reaches_every_parameter(cfg: CfgNode) -> None:
    model = build(cfg)
    losses = model(make_inputs((3, 0)))
    assert set(losses) == BOX_LOSSES | {"loss_mask", "loss_dice"}
    sum(losses.values()).backward()
    assert [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None] == []
    assert model.mask_head.lay1.weight.grad.any()
    assert model.bbox_attention.q_linear.weight.grad.any()
    for loss in ("loss_mask", "loss_dice"):
        model.zero_grad()
        model(make_inputs((3, 0)))[loss].backward()
        assert model.detr.transformer.encoder.layers[0].linear1.weight.grad.any(), "masks teach the encoder"


def test_box_losses_are_detrs(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.DROPOUT = 0.0
    model = build(cfg)
    losses = model(make_inputs((3, 1)))
    cfg.MODEL.META_ARCHITECTURE = "DETR"
    detr = build_model(cfg)
    detr.load_state_dict(model.detr.state_dict())
    torch.testing.assert_close({name: losses[name] for name in BOX_LOSSES}, detr(make_inputs((3, 1))))


def test_only_matched_queries_are_computed_with_their_own_objects(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.DROPOUT = 0.0
    model, inputs = build(cfg), make_inputs((3, 2))
    seen, found, matcher = {}, [], model.detr.criterion.matcher
    model.detr.criterion.matcher = lambda *args: found.append(matcher(*args)) or found[-1]
    model.mask_head.register_forward_hook(lambda m, args, output: seen.update(logits=output, batch=args[3]))
    model.mask_criterion.register_forward_hook(lambda m, args, output: seen.update(targets=args[1]))
    model(inputs)
    assert len(seen["logits"]) == 5
    assert seen["batch"].tolist() == [0, 0, 0, 1, 1]
    targets = seen["targets"]
    (matches,), logits = found, seen["logits"]
    with torch.no_grad():
        detection = model.detect(model.preprocess(inputs))
        every = torch.cartesian_prod(torch.arange(2), torch.arange(QUERIES)).unbind(1)
        masks = model.predict_masks(model.mask_inputs(detection), *every).view(2, QUERIES, 17, 26)
    for i, (b, query, target) in enumerate(zip(matches.batch, matches.query[-1], matches.target[-1], strict=True)):
        torch.testing.assert_close(logits[i], masks[b, query], rtol=1e-3, atol=1e-3)
        mask = inputs[b]["instances"].gt_masks.tensor[target]
        own = targets.masks[targets.flat_index(b, target)]
        assert torch.equal(own[: mask.shape[0], : mask.shape[1]], mask)
        assert own.sum() == mask.sum()


def test_dense_class_loss_is_of_the_cells_of_each_images_own_objects(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.DENSE_CLASS_WEIGHT = 2.0
    cfg.MODEL.DETR.DROPOUT = 0.0
    model = build(cfg)
    inputs = make_inputs((1, 2))
    dense = model(inputs)["loss_dense"]
    dense.backward()
    assert model.dense_class_embed.weight.grad.any()
    assert model.detr.input_proj.weight.grad.any()
    with torch.no_grad():
        images = model.preprocess(inputs)
        detection = model.detect(images)
        logp = model.dense_class_embed(detection.memory).log_softmax(-1)  # B x N x K
    size = detection.projected.shape[-2:]
    total = area = 0.0
    for i, item in enumerate(inputs):
        instances = item["instances"]
        for mask, label in zip(instances.gt_masks.tensor, instances.gt_classes, strict=True):
            padded = torch.zeros(images.tensor.shape[-2:])
            padded[: mask.shape[0], : mask.shape[1]] = mask
            share = torch.nn.functional.adaptive_avg_pool2d(padded[None], size).flatten()
            total, area = total - (share * logp[i, :, label]).sum(), area + share.sum()
    torch.testing.assert_close(dense.detach(), 2 * total / area)
    assert model(make_inputs((0, 0)))["loss_dense"] == 0


def test_no_dense_classes_where_the_box_model_is_frozen(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.DENSE_CLASS_WEIGHT = 2.0
    cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = True
    assert set(build(cfg)(make_inputs((1, 2)))) == {"loss_mask", "loss_dice"}


def test_loss_weights(cfg: CfgNode) -> None:
    cfg.MODEL.DETR.DROPOUT = 0.0
    expected = build(cfg)(make_inputs((2, 1)))
    cfg.MODEL.PANOPTIC_DETR.FOCAL_WEIGHT, cfg.MODEL.PANOPTIC_DETR.DICE_WEIGHT = 20.0, 0.0
    losses = build(cfg)(make_inputs((2, 1)))
    torch.testing.assert_close(losses["loss_mask"], 20 * expected["loss_mask"])
    assert "loss_dice" not in losses


class TestFrozenBoxModel:
    @pytest.fixture
    def model(self, cfg: CfgNode) -> PanopticDETR:
        cfg.MODEL.PANOPTIC_DETR.FREEZE_BOX_MODEL = True
        cfg.MODEL.RESNETS.NORM, cfg.MODEL.BACKBONE.FREEZE_AT = "BN", 0  # whose statistics must not move
        return build(cfg)

    def test_only_the_mask_head_learns(self, cfg: CfgNode, model: PanopticDETR) -> None:
        optimizer = build_optimizer(cfg, model)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        losses = model.train()(make_inputs((3, 1)))
        assert set(losses) == {"loss_mask", "loss_dice"}
        sum(losses.values()).backward()
        optimizer.step()
        changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
        assert changed
        assert all(name.startswith(HEAD) for name in changed)
        trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
        assert trained == {id(p) for name, p in model.named_parameters() if name.startswith(HEAD)}

    def test_it_stays_in_evaluation_mode_without_a_graph(self, model: PanopticDETR) -> None:
        model.train()
        assert model.training
        assert model.mask_head.training
        assert not any(m.training for m in model.detr.modules())
        seen = []
        model.detr.transformer.register_forward_hook(lambda m, args, output: seen.append(output))
        first, second = model(make_inputs((3, 1))), model(make_inputs((3, 1)))
        torch.testing.assert_close(first, second)  # no dropout
        hidden_states, memory = seen[0]
        assert not memory.requires_grad
        assert len(hidden_states) == 1

    def test_images_without_objects(self, model: PanopticDETR) -> None:
        losses = model(make_inputs((0, 0)))
        sum(losses.values()).backward()
        assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


@torch.no_grad()
def test_results(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    inputs[0] |= {"height": 130, "width": 45}
    results = model(inputs)
    for result, size in zip(results, [(130, 45), SIZES[1]], strict=True):
        instances, (panoptic, info) = result["instances"], result["panoptic_seg"]
        assert set(instances.get_fields()) == {"pred_boxes", "scores", "pred_classes", "pred_masks"}
        assert instances.image_size == size
        assert instances.pred_masks.shape == (len(instances), *size)
        assert instances.pred_masks.dtype == torch.bool
        assert set(instances.pred_classes.tolist()) <= set(THINGS)
        assert panoptic.shape == size
        assert info, "no query passes the threshold: the test shows nothing"
        assert set(panoptic.unique().tolist()) - {0} == {s["id"] for s in info}
        assert all(s["isthing"] == (s["category_id"] in THINGS) for s in info)
    assert len(results[0]["instances"]) + len(results[1]["instances"]) > 0


@torch.no_grad()
def test_masks_do_not_depend_on_which_others_are_computed(cfg: CfgNode) -> None:
    """A score floor leaves the rest as it was, and so do chunks of one."""
    inputs = make_inputs()
    cfg.MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD = 0.8
    expected = build(cfg).eval()(inputs)
    assert any(result["panoptic_seg"][1] for result in expected)
    floor = expected[0]["instances"].scores.median().item()
    cfg.MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE = floor
    cfg.MODEL.PANOPTIC_DETR.MASK_CHUNK_SIZE = 1
    model = build(cfg).eval()
    computed = []
    model.mask_head.register_forward_hook(lambda m, args, output: computed.append(len(output)))
    for result, reference in zip(model(inputs), expected, strict=True):
        kept = reference["instances"][reference["instances"].scores >= floor]
        assert torch.equal(result["instances"].pred_classes, kept.pred_classes)
        agreement = (result["instances"].pred_masks == kept.pred_masks).float().mean()
        assert len(kept) == 0 or agreement > 0.999
        assert [s["category_id"] for s in result["panoptic_seg"][1]] == [
            s["category_id"] for s in reference["panoptic_seg"][1]
        ]
        assert (result["panoptic_seg"][0] == reference["panoptic_seg"][0]).float().mean() > 0.999
    assert min(computed) < QUERIES


@torch.no_grad()
def test_an_image_in_a_batch_is_cropped_to_what_it_would_be_alone(cfg: CfgNode) -> None:
    model, inputs = build(cfg).eval(), make_inputs()
    images = model.preprocess(inputs)
    batched = model.detect(images)
    for i, item in enumerate(inputs):
        alone = model.detect(model.preprocess([item]))
        cropped = model.crop(model.mask_inputs(batched), i, images.image_sizes[i])
        expected = model.mask_inputs(alone)
        assert [x.shape for x in cropped.finer] == [x.shape for x in expected.finer]
        assert cropped.projected.shape == expected.projected.shape
        assert cropped.memory.shape == expected.memory.shape
        inner = (..., slice(0, 4), slice(0, 4))  # far from the border to the padding
        torch.testing.assert_close(cropped.finer[-1][inner], expected.finer[-1][inner], rtol=1e-4, atol=1e-4)
        height, width = expected.projected.shape[-2:]
        memory = batched.memory[i].view(3, 4, -1)[:height, :width].flatten(0, 1)
        assert torch.equal(cropped.memory[0], memory)


@torch.no_grad()
def test_nothing_kept(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD = 1.0
    cfg.MODEL.PANOPTIC_DETR.INSTANCE_MIN_SCORE = 1.1
    for result, size in zip(build(cfg).eval()(make_inputs()), SIZES, strict=True):
        assert result["instances"].pred_masks.shape == (0, *size)
        panoptic, info = result["panoptic_seg"]
        assert info == []
        assert panoptic.shape == size
        assert not panoptic.any()


def test_bf16_autocast(cfg: CfgNode) -> None:
    model = build(cfg)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(make_inputs((3, 0)))
        assert all(loss.dtype == torch.float32 and loss.isfinite() for loss in losses.values())
        sum(losses.values()).backward()
        with torch.no_grad():
            results = model.eval()(make_inputs())
    assert results[0]["panoptic_seg"][0].shape == SIZES[0]


def test_names_are_those_of_detr_and_of_the_published_head(cfg: CfgNode) -> None:
    names = set(build(cfg).state_dict())
    cfg.MODEL.META_ARCHITECTURE = "DETR"
    layers = [f"lay{i}" for i in range(1, 6)] + [f"gn{i}" for i in range(1, 6)] + [f"adapter{i}" for i in range(1, 4)]
    modules = [f"mask_head.{layer}" for layer in [*layers, "out_lay"]]
    modules += ["bbox_attention.q_linear", "bbox_attention.k_linear"]
    head = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert names == {f"detr.{name}" for name in build_model(cfg).state_dict()} | head


def test_thing_classes_come_from_the_metadata_of_the_training_set(cfg: CfgNode) -> None:
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = ()
    cfg.DATASETS.TRAIN = ("coco_2017_train_panoptic",)
    cfg.MODEL.DETR.NUM_CLASSES = 133
    assert build(cfg).is_thing.nonzero()[:, 0].tolist() == list(range(80))
    MetadataCatalog.get("only_stuff").thing_dataset_id_to_contiguous_id = {}
    cfg.DATASETS.TRAIN = ("only_stuff",)
    assert not build(cfg).is_thing.any()
    cfg.DATASETS.TRAIN = ("nothing_known_of_it",)
    with pytest.raises(ValueError, match=r"THING_CLASSES is \(\).*'nothing_known_of_it'"):
        build(cfg)


def test_bad_input(cfg: CfgNode) -> None:
    model, inputs = build(cfg), make_inputs((1, 1))
    inputs[1]["file_name"] = "boxes.jpg"
    inputs[1]["instances"].remove("gt_masks")
    with pytest.raises(ValueError, match=r"boxes\.jpg comes without masks.*MODEL\.MASK_ON"):
        model(inputs)
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = [0, CLASSES]
    with pytest.raises(ValueError, match=r"from 0 to 6, but MODEL\.DETR\.NUM_CLASSES is 6"):
        build(cfg)
    cfg.MODEL.PANOPTIC_DETR.THING_CLASSES = THINGS
    cfg.MODEL.RESNETS.OUT_FEATURES = ["res4", "res5"]
    with pytest.raises(ValueError, match=r"MASK_FEATURES is \['res4', 'res3', 'res2'\].*\['res4', 'res5'\]"):
        build(cfg)
