"""The predictor against what evaluation does with the same images, alone, in batches and from several threads."""

import copy
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import detectron2
import numpy as np
import pytest
import torch
import transformers
from detectron2.data import DatasetCatalog, Metadata, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as mask_api

from detr_d2 import Predictor
from detr_d2.checkpoint.huggingface import write_huggingface
from detr_d2.checkpoint.huggingface_keys import config_keys
from detr_d2.data import build_dataset_mapper
from detr_d2.demo.json_sinks import categories
from detr_d2.engine import load_config, load_trained_model
from detr_d2.engine.json_outputs import output_to_dict
from detr_d2.facts import model_facts

# Thresholds that let through what random weights predict; images as small as those of Shapes.
LOW = [
    *["MODEL.DEVICE", "cpu", "MODEL.PANOPTIC_DETR.OBJECT_MASK_THRESHOLD", "0.05"],
    *["MODEL.FCOS.SCORE_THRESH_TEST", "0.001", "MODEL.RETINANET.SCORE_THRESH_TEST", "0.001"],
    *["MODEL.ROI_HEADS.SCORE_THRESH_TEST", "0.01", "MODEL.PANOPTIC_FPN.COMBINE.INSTANCES_CONFIDENCE_THRESH", "0.01"],
]
DC5 = [
    "MODEL.RESNETS.WIDTH_PER_GROUP",
    "64",
    "MODEL.RESNETS.STEM_OUT_CHANNELS",
    "64",
    "MODEL.RESNETS.RES5_DILATION",
    "2",
]
RES5 = ["MODEL.RESNETS.OUT_FEATURES", "('res5',)", "MODEL.DETR.IN_FEATURE", "res5"]
PANOPTIC = [
    *["MODEL.DETR.HIDDEN_DIM", "64", "MODEL.DETR.NHEADS", "8", "MODEL.DETR.IN_FEATURE", "res5"],
    *["MODEL.RESNETS.OUT_FEATURES", "('res2', 'res3', 'res4', 'res5')"],
    *["MODEL.PANOPTIC_DETR.MASK_FEATURES", "('res4', 'res3', 'res2')"],
]
TWO_STAGE = ["MODEL.DEFORMABLE_DETR.QUERY_SELECTION", "TwoStageQueries"]
KINDS = [
    "detr_R_18",
    "panoptic_detr_R_18",
    "deformable_detr_R_18",
    "fcos_R_18",
    "faster_rcnn_R_18",
    "retinanet_R_18",
    "panoptic_fpn_R_18",
]


def find_things(model: torch.nn.Module) -> None:
    """Without training all queries are of one class: let it be a thing."""
    getattr(model, "detr", model).class_embed.bias.data[0] = 5


@pytest.fixture(scope="module")
def run_folder(save_run, shapes_root: Path, tmp_path_factory) -> Callable[[str], Path]:
    """``run_folder("detr_R_18")`` -> a folder as training leaves it: ``config.yaml``, ``model_final.pth``."""
    folders: dict[str, Path] = {}

    def make(name: str) -> Path:
        if name not in folders:
            change = find_things if name == "panoptic_detr_R_18" else None
            folders[name] = save_run(tmp_path_factory.mktemp(name), name, *LOW, change=change).parent
        return folders[name]

    return make


@pytest.fixture(scope="module")
def detr(run_folder: Callable[[str], Path]) -> Path:
    return run_folder("detr_R_18") / "model_final.pth"


@pytest.fixture(scope="module")
def photos(coco_root: Path) -> list[Path]:
    """Photographs of several sizes, two of which are the same."""
    paths = sorted((coco_root / "coco" / "val2017").glob("*.jpg"))
    by_size: dict[tuple, list[Path]] = {}
    for path in paths:
        by_size.setdefault(cv2.imread(str(path)).shape, []).append(path)
    same = max(by_size.values(), key=len)[:2]
    others = [group[0] for group in by_size.values() if group[0] not in same][:2]
    return [same[0], others[0], same[1], others[1]]


def assert_same(actual: dict, expected: dict, **tolerance: float) -> None:
    assert actual.keys() == expected.keys()
    one, other = actual["instances"].get_fields(), expected["instances"].get_fields()
    assert one.keys() == other.keys()
    assert actual["instances"].image_size == expected["instances"].image_size
    for name, value in one.items():
        values = [getattr(x, "tensor", x) for x in (value, other[name])]
        torch.testing.assert_close(*values, **tolerance)
    if "panoptic_seg" in expected:
        torch.testing.assert_close(actual["panoptic_seg"][0], expected["panoptic_seg"][0])
        ids = [[(s["id"], s["category_id"]) for s in x["panoptic_seg"][1]] for x in (actual, expected)]
        assert ids[0] == ids[1]


@pytest.mark.parametrize("kind", KINDS)
def test_gives_what_evaluation_gives(kind: str, run_folder, photos) -> None:
    checkpoint = run_folder(kind) / "model_final.pth"
    predictor = Predictor(checkpoint, batch_size=1)
    cfg = load_config(str(checkpoint.with_name("config.yaml")), ["MODEL.WEIGHTS", str(checkpoint)])
    model, mapper = load_trained_model(cfg), build_dataset_mapper(cfg, is_train=False)
    with torch.no_grad():
        expected = [model([mapper({"file_name": str(path), "image_id": 1})])[0] for path in photos[:2]]
    actual = predictor(photos[:2])
    assert all(len(output["instances"]) > 0 for output in expected)
    for one, other in zip(actual, expected, strict=True):
        assert_same(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("kind", ["detr_R_18", "fcos_R_18", "faster_rcnn_R_18"])
def test_results_do_not_depend_on_the_batch(kind: str, run_folder, photos) -> None:
    predictor = Predictor(run_folder(kind) / "model_final.pth", batch_size=3)
    sizes = []
    predictor.model.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    together = predictor(photos)
    assert sorted(sizes) == [1, 1, 2]  # those of one size share a batch
    for path, output in zip(photos, together, strict=True):
        assert_same(output, predictor(path), rtol=1e-4, atol=1e-3)


def test_the_order_of_many_images_is_kept(detr: Path) -> None:
    predictor = Predictor(detr, batch_size=1)  # of which it reads four ahead
    widths = [60, 70, 60, 80, 70, 60]
    outputs = predictor([np.full((50, width, 3), 9, dtype=np.uint8) for width in widths])
    assert [output["instances"].image_size for output in outputs] == [(50, width) for width in widths]


@pytest.mark.parametrize("kind", ["detr_R_18", "faster_rcnn_R_18"])
def test_threads_get_what_one_thread_gets(kind: str, run_folder, photos) -> None:
    predictor = Predictor(run_folder(kind) / "model_final.pth", batch_size=2)
    expected = [predictor(path) for path in photos]
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(predictor, photos * 3))
    for one, other in zip(actual, expected * 3, strict=True):
        assert_same(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("image_format", ["BGR", "RGB", "L"])
def test_files_and_arrays_of_either_order_are_the_same(detr: Path, photos, image_format: str) -> None:
    grey = ["MODEL.PIXEL_MEAN", [110.0], "MODEL.PIXEL_STD", [58.0]] if image_format == "L" else []
    predictor = Predictor(detr, opts=["INPUT.FORMAT", image_format])
    if grey:  # no model of one channel is at hand: what it would be given is compared
        inputs = [predictor._input(photos[0], "BGR")]
        inputs += [predictor._input(read_image(str(photos[0]), order), order) for order in ("BGR", "RGB")]
        assert inputs[0]["image"].shape[0] == 1
        assert all(torch.equal(item["image"], inputs[0]["image"]) for item in inputs)
        return
    expected = predictor(photos[0])
    for order in ("BGR", "RGB"):
        image = read_image(str(photos[0]), order)
        assert_same(predictor(image, order=order), expected, rtol=0, atol=0)
    with pytest.raises(AssertionError):  # the order does matter
        assert_same(predictor(read_image(str(photos[0]), "RGB")), expected, rtol=0, atol=0)


def test_one_image_gives_one_output_and_a_list_a_list(detr: Path) -> None:
    predictor = Predictor(detr)
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    assert isinstance(predictor(image), dict)
    assert len(predictor([image])) == 1
    assert len(predictor(np.stack([image, image]))) == 2
    assert len(predictor(image for _ in range(3))) == 3
    assert predictor([]) == []


def test_mixed_precision_is_used_when_asked_for(detr: Path, photos) -> None:
    predictor, exact = Predictor(detr, amp=True), Predictor(detr, opts=["SOLVER.AMP.ENABLED", True])
    seen = []
    for model in (predictor.model, exact.model):
        model.class_embed.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    scores = [p(photos[0])["instances"].scores for p in (predictor, exact)]
    assert seen == [torch.bfloat16, torch.float32]
    torch.testing.assert_close(*scores, atol=0.05, rtol=0)


def test_config_with_weights(repo: Path, detr: Path) -> None:
    config = repo / "configs" / "Shapes" / "detr_R_18.yaml"
    predictor = Predictor(config, detr, device="cpu", opts=["MODEL.WEIGHTS", "elsewhere.pth"])
    assert str(detr) == predictor.cfg.MODEL.WEIGHTS
    assert predictor.batch_size == predictor.cfg.TEST.IMS_PER_BATCH == 8
    named = Predictor(str(config), opts=["MODEL.WEIGHTS", str(detr), "MODEL.DEVICE", "cpu"])
    image = np.zeros((50, 60, 3), dtype=np.uint8)
    assert_same(predictor(image), named(image))


def test_a_config_of_detectron2(tmp_path: Path, photos) -> None:
    config = Path(detectron2.__file__).parent / "model_zoo/configs/COCO-Detection/retinanet_R_50_FPN_1x.yaml"
    small = ["MODEL.RESNETS.DEPTH", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64, "MODEL.FPN.OUT_CHANNELS", 16]
    small += ["INPUT.MIN_SIZE_TEST", 64, "MODEL.RETINANET.SCORE_THRESH_TEST", 0.001, "MODEL.DEVICE", "cpu"]
    model = build_model(load_config(str(config), [str(word) for word in small]))
    torch.save({"model": model.state_dict()}, tmp_path / "retinanet.pth")
    predictor = Predictor(config, tmp_path / "retinanet.pth", opts=small)
    assert len(predictor(photos[0])["instances"]) > 0
    assert predictor.metadata.thing_classes[0] == "person"


@pytest.mark.parametrize(
    ("kind", "overrides"),
    [
        ("detr_R_18", []),
        ("detr_R_18", ["MODEL.RESNETS.DEPTH", "50", "MODEL.RESNETS.RES2_OUT_CHANNELS", "256", *DC5, *RES5]),
        ("deformable_detr_R_18", []),
        ("deformable_detr_R_18", ["MODEL.DEFORMABLE_DETR.BOX_REFINE", "True", *TWO_STAGE]),
        ("panoptic_detr_R_18", PANOPTIC),
    ],
)
def test_folders_of_transformers(
    kind: str, overrides: list[str], save_run, shapes_root, tmp_path: Path, photos
) -> None:
    overrides = [*overrides, *["MODEL.DETR.POSITION_TEMPERATURE", "10000.0", "MODEL.DETR.PRE_NORM", "False"]]
    expected = Predictor(save_run(tmp_path, kind, *LOW, *overrides))
    names = [f"class {i}" for i in range(expected.cfg.MODEL.DETR.NUM_CLASSES)]
    folder = write_huggingface(expected.cfg, expected.model.state_dict(), tmp_path / "hf", class_names=names)
    folders = [folder]
    if not expected.cfg.MODEL.RESNETS.RES5_DILATION > 1:  # for which transformers needs timm
        folders.append(tmp_path / "again")  # as transformers writes it: without its defaults
        model = json.loads((folder / "config.json").read_text())["architectures"][0]
        getattr(transformers, model).from_pretrained(folder).save_pretrained(folders[1])
        shutil.copy(folder / "preprocessor_config.json", folders[1])
    for path in folders:
        predictor = Predictor(path, device="cpu", opts=LOW)
        assert_same(predictor(photos[0]), expected(photos[0]), rtol=1e-4, atol=1e-3)
        assert predictor.metadata.thing_classes == names


def test_published_panoptic_folders_have_cocos_things(tmp_path: Path) -> None:
    labels = {str(i): f"class {i}" for i in range(250)}
    config = {"model_type": "detr", "architectures": ["DetrForSegmentation"], "id2label": labels}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").touch()
    keys, described = config_keys(str(tmp_path))
    cfg = load_config("", list(map(str, keys)))
    assert model_facts(cfg).is_panoptic
    things = set(cfg.MODEL.PANOPTIC_DETR.THING_CLASSES)
    assert {1, 90} <= things
    kinds = {category["id"]: category["isthing"] for category in categories(Metadata().set(**described))}
    assert {i for i, is_thing in kinds.items() if is_thing} == things
    assert (len(things), len(kinds)) == (80, 250)


def test_folders_of_transformers_that_are_none_of_ours(detr: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    for config, says in [
        ({"model_type": "detr", "architectures": ["DetrForSegmentation"]}, "which classes are things"),
        ({"model_type": "detr", "decoder_ffn_dim": 5}, "ffn_dim of encoder and decoder differ"),
        ({"model_type": "detr", "activation_function": "gelu"}, "activation"),
        ({"model_type": "detr", "backbone": "convnext_tiny"}, "no backbone of this package is like convnext_tiny"),
        ({"model_type": "yolos"}, "'yolos' model"),
        ({"model_type": "detr", "id2label": ["a"]}, r"config\.json is not as transformers writes it"),
        ({"model_type": "detr", "backbone_config": {"depths": 3}}, r"config\.json is not as transformers writes it"),
        ({"model_type": "detr", "d_model": "wide"}, r"HIDDEN_DIM"),
    ]:
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(ValueError, match=says):
            Predictor(tmp_path)


class TestMetadata:
    def described(self, detr: Path, folder: Path, **metadata: object) -> Path:
        """A copy of a run whose checkpoint says what it was trained on."""
        shutil.copy(detr.with_name("config.yaml"), folder)
        state = torch.load(detr, weights_only=True)
        torch.save(state | {"dataset_metadata": metadata}, folder / "model.pth")
        return folder / "model.pth"

    def test_of_the_config(self, detr: Path) -> None:
        assert Predictor(detr).metadata is MetadataCatalog.get("shapes_val")

    def test_of_the_checkpoint(self, detr: Path, tmp_path: Path) -> None:
        names, ids = ["cat", "dog", "cow", "emu"], {17: 0, 18: 1, 21: 2, 99: 3}
        path = self.described(detr, tmp_path, thing_classes=names, thing_dataset_id_to_contiguous_id=ids)
        metadata = Predictor(path).metadata
        assert metadata.thing_classes == names
        assert metadata.thing_dataset_id_to_contiguous_id == ids
        assert metadata.get("stuff_classes") is None

    def test_of_the_config_where_both_agree(self, detr: Path, tmp_path: Path) -> None:
        shapes = MetadataCatalog.get("shapes_val")  # which knows colours, too
        path = self.described(detr, tmp_path, thing_classes=shapes.thing_classes, stuff_classes=None)
        assert Predictor(path).metadata is shapes

    def test_nothing_is_known(self, detr: Path) -> None:
        predictor = Predictor(detr, opts=["DATASETS.TEST", "('nowhere_to_be_found',)", "DATASETS.TRAIN", "()"])
        assert predictor.metadata.get("thing_classes") is None
        assert "nowhere_to_be_found" not in DatasetCatalog

    def test_tells_things_from_stuff_where_the_data_set_is_not_registered(self, run_folder, tmp_path: Path) -> None:
        panoptic = run_folder("panoptic_detr_R_18") / "model_final.pth"
        opts = ["DATASETS.TEST", "('gone',)", "DATASETS.TRAIN", "('gone',)"]
        with pytest.raises(ValueError, match="THING_CLASSES"):
            Predictor(panoptic, opts=opts)
        path = self.described(panoptic, tmp_path, thing_dataset_id_to_contiguous_id={7: 0, 9: 2})
        assert Predictor(path, opts=opts).model.is_thing.nonzero().flatten().tolist() == [0, 2]


def test_tensors_and_pil_images_are_as_the_file(detr: Path, photos, tmp_path: Path) -> None:
    predictor = Predictor(detr)
    turned = Image.open(photos[0])
    turned.getexif()[0x0112] = 6  # on its side
    turned.save(tmp_path / "turned.png", exif=turned.getexif())
    for path in (photos[0], tmp_path / "turned.png"):
        expected = predictor(path)
        assert_same(predictor(Image.open(path)), expected, rtol=0, atol=0)
        tensor = torch.from_numpy(read_image(str(path), "RGB").transpose(2, 0, 1).copy())
        assert_same(predictor(tensor), expected, rtol=0, atol=0)
        assert_same(predictor(tensor.flip(0), order="BGR"), expected, rtol=0, atol=0)
        assert_same(predictor(tensor[None].expand(2, -1, -1, -1))[1], expected, rtol=1e-4, atol=1e-3)
    grey = Image.open(photos[0]).convert("L")
    assert len(predictor([grey, grey.convert("P"), grey.convert("RGBA")])) == 3


def test_outputs_as_json(run_folder, photos) -> None:
    predictor = Predictor(run_folder("panoptic_detr_R_18") / "model_final.pth")
    output = predictor(photos[0])
    read = json.loads(json.dumps(predictor.to_dict(output), allow_nan=False))
    instances, (ids, segments) = output["instances"], output["panoptic_seg"]
    assert (read["height"], read["width"]) == instances.image_size
    assert len(read["instances"]) == len(instances) > 0
    for i, entry in enumerate(read["instances"]):
        assert entry["box"] == instances.pred_boxes.tensor[i].tolist()
        assert (entry["score"], entry["class"]) == (instances.scores[i].item(), instances.pred_classes[i].item())
        assert entry["name"] == predictor.metadata.thing_classes[entry["class"]]
        assert (mask_api.decode(entry["mask"]) == instances.pred_masks[i].numpy()).all()
    assert len(read["segments"]) == len(segments) > 0
    for entry, segment in zip(read["segments"], segments, strict=True):
        mask = (ids == segment["id"]).numpy()
        assert (mask_api.decode(entry["mask"]) == mask).all()
        assert entry["area"] == mask.sum()
        assert (entry["class"], entry["is_thing"]) == (segment["category_id"], segment["isthing"])
    nameless = Metadata()
    assert output_to_dict(output, nameless)["instances"][0]["name"] == str(read["instances"][0]["class"])
    boxes = Predictor(run_folder("detr_R_18") / "model_final.pth")
    assert set(boxes.to_dict(boxes(photos[0]))["instances"][0]) == {"box", "score", "class", "name"}


@pytest.mark.parametrize("kind", ["panoptic_detr_R_18", "faster_rcnn_R_18"])
def test_a_pickled_predictor_predicts_the_same(kind: str, run_folder, photos) -> None:
    predictor = Predictor(run_folder(kind) / "model_final.pth")
    for copied in (pickle.loads(pickle.dumps(predictor)), copy.deepcopy(predictor)):
        assert_same(copied(photos[0]), predictor(photos[0]), rtol=0, atol=0)
        assert copied.metadata.thing_classes == predictor.metadata.thing_classes


def test_a_fork_while_another_thread_predicts(detr: Path) -> None:
    """The child has neither that thread, which held the lock, nor those of OpenMP."""
    predictor, image = Predictor(detr), np.full((100, 120, 3), 90, np.uint8)
    is_done = threading.Event()

    def predict() -> None:
        while not is_done.is_set():
            predictor(image)

    torch.set_num_threads(2)
    thread = threading.Thread(target=predict)
    thread.start()
    try:
        for _ in range(3):
            time.sleep(0.1)
            pid = os.fork()
            if pid == 0:
                try:
                    predictor(image)
                    os._exit(0)
                finally:
                    os._exit(1)
            deadline = time.monotonic() + 30
            while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
                time.sleep(0.05)
            if ended == (0, 0):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            assert ended == (pid, 0)
    finally:
        is_done.set()
        thread.join()
        torch.set_num_threads(1)


@pytest.mark.parametrize(
    ("images", "error", "says"),
    [
        ([np.zeros((5, 6, 3), np.uint8), np.zeros((5, 6), np.uint8)], ValueError, r"Image 1 .*5 x 6, uint8.*H x W x 3"),
        (np.zeros((5, 6, 3), np.float32), ValueError, r"Image 0 .*float32.*uint8"),
        (np.zeros((5, 6, 4), np.uint8), ValueError, r"5 x 6 x 4"),
        (np.zeros((0, 6, 3), np.uint8), ValueError, r"0 x 6 x 3"),
        (
            [torch.zeros(3, 5, 6)],
            ValueError,
            r"Image 0 is a tensor of 3 x 5 x 6, torch.float32; expected 3 x H x W, uint8",
        ),
        (torch.zeros(5, 6, 3, dtype=torch.uint8), ValueError, r"tensor of 5 x 6 x 3"),
        (torch.tensor(3), ValueError, r"Image 0 is a tensor"),
        ([{}], TypeError, r"Image 0 is a dict"),
        (None, TypeError, r"A NoneType is no image"),
        ("nowhere.jpg", FileNotFoundError, r"nowhere\.jpg does not exist"),
        ([np.zeros((5, 6, 3), np.uint8), Path("/")], IsADirectoryError, r"/ is a folder"),
        (__file__, OSError, r"test_predictor\.py cannot be read as an image"),
    ],
)
def test_bad_images(images: object, error: type, says: str, detr: Path) -> None:
    with pytest.raises(error, match=says):
        Predictor(detr)(images)


def test_unknown_order(detr: Path) -> None:
    with pytest.raises(ValueError, match="order is 'GBR'"):
        Predictor(detr)([], order="GBR")


def test_bad_models(repo: Path, detr: Path, run_folder, tmp_path: Path) -> None:
    config = repo / "configs" / "Shapes" / "detr_R_18.yaml"
    alone = tmp_path / "alone.pth"
    shutil.copy(detr, alone)
    (tmp_path / "bad.yaml").write_text("MODEL: [")
    for arguments, keywords, error, says in [
        ((alone,), {}, FileNotFoundError, r"alone\.pth has no config\.yaml beside it"),
        ((tmp_path / "none.pth",), {}, FileNotFoundError, r"none\.pth does not exist"),
        ((tmp_path,), {}, IsADirectoryError, "is a folder: name a checkpoint"),
        ((detr, alone), {}, ValueError, "two checkpoints"),
        ((config,), {}, ValueError, r"MODEL\.WEIGHTS is empty"),
        ((tmp_path / "none.yaml",), {}, FileNotFoundError, r"none\.yaml"),
        ((tmp_path / "bad.yaml",), {}, ValueError, r"bad\.yaml is no yaml config"),
        ((config, run_folder("fcos_R_18") / "model_final.pth"), {}, ValueError, "FCOS|transformer"),
        ((detr,), {"opts": ["MODEL.DETR.NUM_CLASES", 3]}, ValueError, r"MODEL\.DETR\.NUM_CLASSES"),
        ((detr,), {"batch_size": 0}, ValueError, "batch_size must be at least 1"),
        ((detr,), {"device": "gpu"}, ValueError, "'gpu' is no device"),
    ]:
        with pytest.raises(error, match=says):
            Predictor(*arguments, **keywords)


def test_import_of_the_package_leaves_the_trainer_out(repo: Path) -> None:
    code = (
        "import sys, detr_d2; assert 'detr_d2.engine' not in sys.modules; "
        "from detr_d2 import Predictor; assert Predictor is detr_d2.engine.Predictor; "
        "assert not hasattr(detr_d2, 'Nothing')"
    )
    subprocess.run([sys.executable, "-c", code], cwd=repo, check=True)
