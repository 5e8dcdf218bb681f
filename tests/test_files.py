"""Files and folders that are whole or not there."""

import errno
import os
from pathlib import Path

import pytest

from detr_d2.files import remove_partial_files, whole_file, whole_files

ERRORS = [OSError("disk full"), KeyboardInterrupt()]


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"old")
    with whole_file(path) as partial:
        assert partial.suffix == ".png"
        partial.write_bytes(b"new")
    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["a.png"]


def test_the_folder_of_a_file_is_made(tmp_path):
    with whole_file(str(tmp_path / "b" / "c" / "a")) as partial:
        partial.touch()
    assert names(tmp_path / "b" / "c") == ["a"]


@pytest.mark.parametrize("error", ERRORS)
def test_a_failed_write_leaves_the_old_file(tmp_path, error):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def fail() -> None:
        with whole_file(path) as partial:
            partial.write_bytes(b"half of the new")
            assert path.read_bytes() == b"old"
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["a"]


def test_a_file_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    for name in ("fsync", "replace"):
        original = getattr(os, name)
        monkeypatch.setattr(f"os.{name}", lambda *args, n=name, f=original: (calls.append(n), f(*args))[1])
    with whole_file(tmp_path / "a") as partial:
        partial.write_bytes(b"new")
    assert calls == ["fsync", "replace", "fsync"]  # the file, its name, the folder


def test_only_own_partial_files_are_removed(tmp_path):
    kept = ["model.pth", "model.pth.tmp", ".hidden", "x.detr_d2-partial"]
    of_killed_runs = [".model.123.detr_d2-partial.pth", ".model.pth.123.detr_d2-partial", ".last.9.detr_d2-partial"]
    for name in [*kept, *of_killed_runs]:
        (tmp_path / name).touch()
    remove_partial_files(str(tmp_path))
    assert names(tmp_path) == sorted(kept)


@pytest.mark.parametrize("kind", [whole_file, whole_files])
def test_what_a_killed_process_leaves_vanishes_and_what_is_being_written_stays(tmp_path, kind):
    with kind(tmp_path / "b" / "model.pth") as partial:
        name, folder = partial.name, partial.parent
        remove_partial_files.cache_clear()
        with whole_file(folder / "other"):  # as another process would
            pass
        assert partial.exists()
        if partial.is_file():
            partial.write_bytes(b"whole")
    (folder / name).mkdir() if kind is whole_files else (folder / name).touch()
    remove_partial_files.cache_clear()
    with whole_file(folder / "other"):
        pass
    assert names(folder) == ["model.pth", "other"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EFBIG])
def test_the_error_of_a_full_disk_names_the_file(tmp_path, code):
    def fail(hidden: bool) -> None:
        with whole_file(tmp_path / "model.pth"):
            try:
                raise OSError(code, os.strerror(code))
            except OSError:
                if hidden:
                    raise RuntimeError("unexpected pos 704 vs 598")  # noqa: B904 (torch's writer)
                raise

    for hidden in (False, True):
        with pytest.raises(OSError, match=rf"model\.pth could not be written: {os.strerror(code)}; the disk of .* MB"):
            fail(hidden)
    assert names(tmp_path) == []


@pytest.mark.parametrize("exists", [False, True])
def test_a_folder(tmp_path, exists):
    folder = tmp_path / "b" / "results"
    if exists:
        folder.mkdir(parents=True)
        (folder / "kept").write_text("old")
        (folder / "1").write_text("old")
    with whole_files(folder) as partial:
        (partial / "1").write_text("new")
        (partial / "2").write_text("new")
        assert names(folder) == ["1", "kept"] if exists else not folder.exists()
    assert names(folder) == ["1", "2", "kept"][: 3 if exists else 2]
    assert (folder / "1").read_text() == "new"
    assert names(folder.parent) == ["results"]
    assert folder.stat().st_mode & 0o777 == (tmp_path / "b").stat().st_mode & 0o777


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("exists", [False, True])
def test_a_failed_folder(tmp_path, error, exists):
    folder = tmp_path / "results"
    if exists:
        folder.mkdir()
        (folder / "1").write_text("old")

    def fail() -> None:
        with whole_files(folder) as partial:
            (partial / "1").write_text("new")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert names(tmp_path) == (["results"] if exists else [])
    assert not exists or (folder / "1").read_text() == "old"


def test_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with whole_files(".") as partial:
        (partial / "1").touch()
    assert os.listdir(".") == ["1"]
