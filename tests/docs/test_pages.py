"""What README.md and the pages name is there: files, commands with their options, config keys, links; and code runs."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from detectron2.config import CfgNode

from detr_d2.engine import load_config

REPO = Path(__file__).resolve().parents[2]
PAGES = [REPO / "README.md", *sorted((REPO / "docs").glob("*.md"))]
PAGES += [REPO / folder / "README.md" for folder in ("configs", "tools")]
by_name = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPO)))

# Names of files that are no files of this repository.
NOT_HERE = (
    r"(output|OUTPUT_DIR|inference|results)(/.*)?",  # made by commands
    r"(datasets|coco|annotations|train2017|val2017|panoptic_(train|val)2017)(/.*)?",  # downloaded or generated
    r"(instances|panoptic)_.*\.json",  # COCO's
    r"mine(/.*|\.yaml)?|my_\w+\.(py|yaml)",  # a reader's own data, config and models
    r"[\w+*-]+\.(pth|onnx|png|jpg|jpeg|mp4|pdf)",  # weights, exports and pictures that commands read or write
    r"(photos|drawn)/|results\.json",  # of the demo
    r"(metrics|coco_instances_results|panoptic_predictions|benchmark)\.json|config\.yaml|log\.txt",  # of a training
    r"installed\.txt|wheels|(tools/gpu/)?whl/?|\.venv(/.*)?|pip\.conf",  # of an installation
    r"detectron2/config/defaults\.py|plain_train_net\.py",  # Detectron2's
    r"(X|CONFIG)\.yaml.*|\.\.\.",  # placeholders
    r"/mnt/c",  # Windows seen from WSL
)
CODE_BLOCK = re.compile(r"(?ms)^```\w*\n(.*?)^```$")
SUFFIXES = r"py|sh|md|yaml|json|txt|png|jpg|pth|onnx|toml"
CONFIG_KEY = re.compile(r"\b(?:MODEL|SOLVER|INPUT|TEST|DATASETS|DATALOADER)(?:\.[A-Z][A-Z0-9_]*)+\b")


def text_of(page: Path) -> str:
    """The page with continued lines joined."""
    return re.sub(r"\\\n\s*", "", page.read_text())


def code_of(page: Path) -> list[str]:
    """Everything between backticks or in a block: what must be true to the letter."""
    text = text_of(page)
    fences, text = CODE_BLOCK.findall(text), CODE_BLOCK.sub("", text)
    return [*fences, *re.findall(r"(?m)^    .+$", text), *re.findall(r"`([^`\n]+)`", text)]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command that runs a script of tools/, or Python."""
    found = []
    for code in code_of(page):
        for line in code.splitlines():
            match = re.match(r"\s*(?:[A-Z0-9_]+=\S+ )*((?:\S*/)?(?:python|bash) .+)$", line)
            if match and "->" not in line:
                found.append(shlex.split(match[1], comments=True))
    return found


def new_files(page: Path) -> set[str]:
    """Those that the page tells its reader to write, which its own test does."""
    return set(re.findall(r"(?m)^`([^`]+)`, new:$", page.read_text()))


@by_name
def test_every_file_named_is_there(page):
    text = re.sub(r"(?ms)^```(?:python|yaml|diff)\n.*?^```$", "", text_of(page))  # code is run, not read
    tokens = set(re.findall(r"(?:configs|tools|docs|tests|detr_d2)/[\w./*-]*[\w*/]", text))
    for code in re.findall(r"`([^`\n]+)`", text):
        tokens |= {word for word in code.split() if re.fullmatch(rf"[\w.*/{{}},-]+(?:\.(?:{SUFFIXES})|/)", word)}
    for line in re.findall(r"(?m)^    .+$", text):
        tokens |= set(re.findall(r"(?<![\w./:@-])[\w/]+\.(?:py|sh|yaml|md)\b(?![@/])", line))
    places = [REPO, REPO / "detr_d2", REPO / "detr_d2" / "modeling", page.parent]
    missing = [
        name
        for name in sorted(tokens - new_files(page))
        if not any(re.fullmatch(pattern, name) for pattern in NOT_HERE)
        and not any(any(place.glob(name.strip("/"))) for place in places)
        and not (("/" not in name and any((REPO / "detr_d2").rglob(name))) or any((REPO / "configs").rglob(name)))
    ]
    assert missing == []


@by_name
def test_every_command_is_understood(page, options_of):
    for words in commands_of(page):
        script = next((word for word in words if re.fullmatch(r"tools/\w+\.(py|sh)", word)), None)
        if script is None:
            continue
        flags = {word.split("=")[0] for word in words if word.startswith("--")}
        if script.endswith(".sh"):
            assert [flag for flag in flags if flag not in (REPO / script).read_text()] == [], words
        else:
            assert flags - options_of(Path(script).stem) == set(), words


@by_name
def test_every_config_key_exists(page):
    cfg = load_config()
    new = set(re.findall(r"cfg\.(MODEL\.\w+)", page.read_text())) if new_files(page) else set()
    for key in set(CONFIG_KEY.findall(text_of(page))):
        node, known = cfg, True
        for part in key.split("."):
            known = isinstance(node, CfgNode) and part in node
            if not known:
                break
            node = node[part]
        assert known or any(key.startswith(name) for name in new), key


@by_name
def test_every_class_and_registry_exists(page):
    """Words in CamelCase and names of registries, of this package or of what it imports."""
    sources = "".join(path.read_text() for path in (REPO / "detr_d2").rglob("*.py"))
    sources += "".join(CODE_BLOCK.findall(page.read_text()))
    words = {word for code in re.findall(r"`([^`\n]+)`", text_of(page)) for word in re.findall(r"(?<![\w-])\w+", code)}
    names = {word for word in words if re.fullmatch(r"[A-Z]+[a-z]\w*[A-Z]\w*|[A-Z_]+_REGISTRY", word)}
    assert [name for name in sorted(names) if name not in sources] == []


def test_the_architecture_names_every_part_of_the_package():
    text = (REPO / "docs" / "architecture.md").read_text()
    parts = [path.name for path in (REPO / "detr_d2").iterdir() if not path.name.startswith("_")]
    assert [name for name in sorted(parts) if f"`{name}`" not in text] == []


@by_name
def test_every_link_resolves(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"(?m)^#+ (.+)$", path.read_text())
            slugs = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in slugs, target


@by_name
def test_python_and_yaml_are_well_formed(page):
    for language, code in re.findall(r"(?ms)^```(\w+)\n(.*?)^```$", page.read_text()):
        if language == "python":
            compile(code, str(page), "exec")
        if language == "yaml":
            assert isinstance(yaml.safe_load(code), dict)
    for words in commands_of(page):
        if "-c" in words and "python" in words[0]:
            compile(words[words.index("-c") + 1], str(page), "exec")


def test_the_ten_minutes_run(shapes_root, monkeypatch, tmp_path):
    """Every piece of the page, one after the other; its trainer for one step."""
    monkeypatch.chdir(REPO)
    page = (REPO / "docs" / "detectron2_in_ten_minutes.md").read_text()
    pieces = re.findall(r"(?ms)^```python\n(.*?)^```$", page)
    assert len(pieces) == 5
    namespace: dict = {}
    for code in pieces:
        namespace = {}
        exec(compile(code, "detectron2_in_ten_minutes.md", "exec"), namespace)
    config = tmp_path / "short.yaml"
    base = {"_BASE_": f"{REPO}/configs/Shapes/detr_R_18.yaml", "INPUT": {"MIN_SIZE_TRAIN": [48], "MIN_SIZE_TEST": 48}}
    solver = {"MAX_ITER": 1, "IMS_PER_BATCH": 2}
    config.write_text(yaml.safe_dump(base | {"SOLVER": solver, "MODEL": {"DEVICE": "cpu"}}))
    namespace["train"](str(config), str(tmp_path / "out"))
    made = {"metrics.json", "model_final.pth", "last_checkpoint", "inference"}
    assert made <= {path.name for path in (tmp_path / "out").iterdir()}
    assert "bbox/AP50" in (tmp_path / "out" / "metrics.json").read_text()


def test_every_script_has_a_line_and_an_example():
    text = text_of(REPO / "tools" / "README.md")
    scripts = [path.name for path in (REPO / "tools").iterdir() if path.suffix in (".py", ".sh")]
    assert [name for name in sorted(scripts) if f"`{name}`" not in text] == []
    assert [name for name in sorted(scripts) if not re.search(rf"(?m)^    (python|bash) tools/{name}", text)] == []


def test_every_folder_and_base_of_configs_is_explained():
    text = (REPO / "configs" / "README.md").read_text()
    names = [path.name for path in (REPO / "configs").iterdir() if path.is_dir() or path.name.startswith("Base-")]
    assert [name for name in sorted(names) if name not in text] == []


def test_the_rules_are_noticed_when_broken(tmp_path, options_of):
    page = tmp_path / "page.md"
    page.write_text(
        "Run `python tools/train_net.py --config SOLVER.BASE_RL 1`, see `detr_d2/nothing.py` and [x](none.md)."
    )
    for check in (test_every_file_named_is_there, test_every_config_key_exists, test_every_link_resolves):
        with pytest.raises(AssertionError):
            check.__wrapped__(page) if hasattr(check, "__wrapped__") else check(page)
    with pytest.raises(AssertionError):
        test_every_command_is_understood(page, options_of)
