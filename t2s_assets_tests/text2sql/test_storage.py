"""Storage: addresses are paths, and nothing is ever left half written."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from t2s_assets.text2sql import storage
from t2s_assets.text2sql.errors import ConfigError, DataError
from t2s_assets.text2sql.storage import (
    Project,
    content_hash,
    file_hash,
    read_json,
    read_manifest,
    remove_leftovers,
    replacing_file,
    replacing_folder,
    restore_interrupted,
    write_json,
    write_manifest,
)
from t2s_assets.text2sql.training.checkpoints import damage, seal
from t2s_assets_tests.projects import ProjectFiles


def names(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_an_address_is_a_path(tmp_path: Path) -> None:
    project = Project(tmp_path / "configs", tmp_path / "storage")
    assert project.path("wikisql", "tables") == tmp_path / "storage" / "wikisql" / "tables"
    assert project.path("wikisql", "adapter", "tiny") == tmp_path / "storage" / "wikisql" / "adapter" / "tiny"


def test_folders_come_from_the_environment_or_the_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("T2S_CONFIGS", str(tmp_path / "a"))
    monkeypatch.setenv("T2S_STORAGE", str(tmp_path / "b"))
    assert Project.find() == Project(tmp_path / "a", tmp_path / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("T2S_STORAGE", "~/b")
    assert Project.find().storage == tmp_path / "b"
    monkeypatch.delenv("T2S_CONFIGS")
    monkeypatch.delenv("T2S_STORAGE")
    assert (Project.find().configs / "mini" / "dataset.yaml").is_file()


def test_unknown_names_list_the_known_ones(project_files: ProjectFiles, tmp_path: Path) -> None:
    project_files.dataset("shop")
    project_files.experiment("shop", "tiny", base=tmp_path)
    project = project_files.project
    assert project.dataset("shop").description == project.experiment("shop", "tiny").description
    with pytest.raises(ConfigError, match=r"no dataset 'shot' in .*; there are \['shop'\]"):
        project.dataset("shot")
    with pytest.raises(ConfigError, match=r"no experiment 'tny' in .*; there are \['tiny'\]"):
        project.experiment("shop", "tny")
    with pytest.raises(ConfigError, match=r"no experiment '\.\./shop/tiny'"):
        project.experiment("shop", "../shop/tiny")


# --------------------------------------------------------------------------------------------- whole or not at all


def test_a_folder_takes_its_place_whole(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er" / "asset"
    for content in ("one", "two"):
        with replacing_folder(folder) as fresh:
            (fresh / content).write_text(content)
            assert names(folder) == ["one"] if folder.exists() else content == "one"
        assert names(folder) == [content]
        assert names(folder.parent) == ["asset"]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 32 MB that can lose its power."""
    made = Disk(tmp_path / "disk.image", tmp_path / "disk")
    made.folder.mkdir()
    made.image.write_bytes(b"")
    os.truncate(made.image, 32_000_000)
    try:
        subprocess.run(["mkfs.ext4", "-q", "-F", str(made.image)], check=True, capture_output=True)
        made.mount()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("mounting a disk of its own needs root and ext4")
    yield made
    made.unmount()


@dataclass
class Disk:
    image: Path
    folder: Path

    def mount(self) -> None:
        subprocess.run(["mount", "-o", "loop", str(self.image), str(self.folder)], check=True, capture_output=True)

    def unmount(self) -> None:
        subprocess.run(["umount", str(self.folder)], check=True)

    def lose_power(self) -> None:
        """After another program had its own file, and with it all names, written to the disk. Then it is back."""
        with (self.folder / "another").open("wb") as other:
            os.fsync(other.fileno())
        opened = os.open(self.folder, os.O_RDONLY)
        fcntl.ioctl(opened, 0x8004587D, struct.pack("I", 2))  # EXT4_IOC_SHUTDOWN, and nothing more is written
        os.close(opened)
        self.unmount()
        self.mount()


def test_what_took_its_place_is_whole_after_a_loss_of_power(disk: Disk) -> None:
    work, folder, content = disk.folder / "work", disk.folder / "deep" / "asset", os.urandom(300_000)
    work.mkdir()
    with replacing_folder(folder) as fresh:
        (fresh / "inner").mkdir()
        (fresh / "inner" / "weights").write_bytes(content)
    write_json(disk.folder / "facts.json", {"a": 1})
    work.rmdir()  # as training removes its checkpoints then
    disk.lose_power()
    assert not work.exists()
    assert (folder / "inner" / "weights").read_bytes() == content
    assert read_json(disk.folder / "facts.json", made_by="") == {"a": 1}


def test_a_sealed_checkpoint_is_whole_after_a_loss_of_power(disk: Disk) -> None:
    checkpoint = disk.folder / "checkpoint-2"
    checkpoint.mkdir()
    (checkpoint / "optimizer.pt").write_bytes(os.urandom(300_000))
    seal(checkpoint)
    disk.lose_power()
    assert damage(checkpoint) is None


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_the_umask_says_who_may_read_weights(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with replacing_folder(tmp_path / "adapter") as fresh:
            save_file({"w": np.zeros(2, np.float32)}, fresh / "adapter_model.safetensors")
            assert stat.S_IMODE((fresh / "adapter_model.safetensors").stat().st_mode) == 0o600
            (fresh / "adapter_config.json").write_text("{}")
    finally:
        os.umask(before)
    assert names(tmp_path / "adapter") == ["adapter_config.json", "adapter_model.safetensors"]
    assert {stat.S_IMODE(f.stat().st_mode) for f in (tmp_path / "adapter").iterdir()} == {mode}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_a_failure_leaves_what_was(tmp_path: Path, error: type[BaseException]) -> None:
    folder, file = tmp_path / "asset", tmp_path / "file.json"
    with pytest.raises(error), replacing_folder(folder) as fresh:
        (fresh / "half").touch()
        raise error
    assert names(tmp_path) == []
    with replacing_folder(folder) as fresh:
        (fresh / "whole").touch()
    write_json(file, 1)
    with pytest.raises(error), replacing_folder(folder) as fresh:
        (fresh / "half").touch()
        raise error
    with pytest.raises(error), replacing_file(file) as path:
        path.write_text("half")
        raise error
    assert names(tmp_path) == ["asset", "file.json"]
    assert names(folder) == ["whole"]
    assert read_json(file, made_by="") == 1


def test_a_rename_that_fails_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "asset"
    with replacing_folder(folder) as fresh:
        (fresh / "whole").touch()
    rename = Path.rename

    def full_disk(self: Path, target: Path) -> Path:
        if self.name.endswith(".new"):
            raise OSError("no space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full_disk)
    with pytest.raises(OSError, match="no space left"), replacing_folder(folder) as fresh:
        (fresh / "other").touch()
    assert names(folder) == ["whole"]
    assert names(tmp_path) == ["asset"]


def test_a_killed_process_leaves_what_was(tmp_path: Path) -> None:
    folder = tmp_path / "asset"
    with replacing_folder(folder) as fresh:
        (fresh / "whole").touch()
    code = (
        "import sys, time; from pathlib import Path; from t2s_assets.text2sql.storage import replacing_folder\n"
        "with replacing_folder(Path(sys.argv[1])) as fresh:\n"
        "    (fresh / 'half').touch(); print('writing', flush=True); time.sleep(60)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    assert child.stdout.readline() == "writing\n"
    os.kill(child.pid, signal.SIGKILL)
    child.wait(10)
    child.stdout.close()
    assert names(folder) == ["whole"]
    with replacing_folder(folder) as fresh:
        (fresh / "next").touch()
    assert names(folder) == ["next"]


def test_what_killed_writers_left_is_removed_and_living_ones_are_left_alone(tmp_path: Path) -> None:
    folder, other = tmp_path / "asset", tmp_path / "asset2"
    for name in (".asset.0123abcd.new", ".asset.0123abce.old", ".asset2.0123abcd.new", ".asset.notours.new"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").touch()
        os.utime(tmp_path / name, (0, 0))
    (tmp_path / ".asset.0123abcf.new").mkdir()  # just made: its writer may be about to lock it
    for name, age in ((".file.0123abcd.new", 2 * 86_400), (".file.0123abce.new", 3_600)):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    with replacing_folder(folder) as living:
        os.utime(living, (0, 0))
        with replacing_folder(folder) as fresh:
            (fresh / "second").touch()
        assert living.is_dir()
        (living / "first").touch()
    assert names(folder) == ["first"]
    write_json(tmp_path / "file", 1)
    assert names(tmp_path) == sorted(
        [".asset.0123abcf.new", ".asset.notours.new", ".asset2.0123abcd.new", ".file.0123abce.new", "asset", "file"]
    )
    assert not other.exists()


def test_an_old_folder_is_kept_while_nothing_took_its_place(tmp_path: Path) -> None:
    old = tmp_path / ".asset.0123abce.old"
    old.mkdir()
    (old / "whole").touch()
    os.utime(old, (0, 0))
    assert remove_leftovers(tmp_path / "asset") == []
    with pytest.raises(RuntimeError), replacing_folder(tmp_path / "asset"):
        raise RuntimeError
    assert names(tmp_path / "asset") == ["whole"]


def old_folder(path: Path, *, written: int) -> None:
    path.mkdir()
    (path / str(written)).touch()
    os.utime(path, (written, written))


def test_what_is_put_back_is_the_folder_s_own_and_the_newest(tmp_path: Path) -> None:
    folder = tmp_path / "qwen-coder-1"
    old_folder(tmp_path / ".qwen-coder-1.5b.1a2b3c4d.old", written=9)  # of another experiment
    restore_interrupted(folder)
    assert not folder.exists()
    for name, written in (("0", 5), ("f", 6), ("7", 4)):
        old_folder(tmp_path / f".qwen-coder-1.{name * 8}.old", written=written)
    restore_interrupted(folder)
    assert names(folder) == ["6"]


def test_readers_that_put_a_folder_back_at_once_do_not_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, rename = tmp_path / "asset", Path.rename
    old_folder(tmp_path / ".asset.0123abce.old", written=1)

    def another_was_faster(self: Path, target: Path) -> Path:
        rename(self, target)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", another_was_faster)
    restore_interrupted(folder)
    assert names(folder) == ["1"]


def test_a_reader_that_puts_a_folder_back_leaves_the_new_one_that_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, rename = tmp_path / "asset", Path.rename
    old_folder(tmp_path / ".asset.0123abce.old", written=1)

    def the_writer_was_faster(self: Path, target: Path) -> Path:
        folder.mkdir()
        (folder / "new").touch()
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", the_writer_was_faster)
    restore_interrupted(folder)
    assert names(folder) == ["new"]


@pytest.mark.parametrize("readers", [1, 3])
def test_a_reader_in_the_midst_of_a_swap_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readers: int
) -> None:
    folder, rename, left = tmp_path / "asset", Path.rename, [readers]
    with replacing_folder(folder) as fresh:
        (fresh / "one").touch()

    def read_between(self: Path, target: Path) -> Path:
        if self.name.endswith(".new") and left[0]:
            left[0] -= 1
            restore_interrupted(folder)
            assert names(folder) == ["one"]
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", read_between)
    with replacing_folder(folder) as fresh:
        (fresh / "two").touch()
    assert left == [0]
    assert names(folder) == ["two"]
    assert names(tmp_path) == ["asset"]


def test_what_is_half_removed_is_not_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "asset"
    with replacing_folder(folder) as fresh:
        (fresh / "one").touch()
    with monkeypatch.context() as patch:
        patch.setattr(storage.shutil, "rmtree", lambda path, ignore_errors: None)  # as if it was killed on the way
        with replacing_folder(folder) as fresh:
            (fresh / "two").touch()
    folder.rename(tmp_path / "moved")
    restore_interrupted(folder)
    assert not folder.exists()
    (left,) = (p for p in tmp_path.iterdir() if p.suffix == ".gone")
    os.utime(left, (0, 0))
    assert remove_leftovers(folder) == [left]
    assert names(tmp_path) == ["moved"]


def test_writers_at_the_same_time_do_not_mix(tmp_path: Path) -> None:
    path = tmp_path / "asset"
    with replacing_folder(path) as first, replacing_folder(path) as second:
        (first / "first").touch()
        (second / "second").touch()
    assert names(path) == ["first"]
    assert names(tmp_path) == ["asset"]


# ----------------------------------------------------------------------------------------------------------- JSON


def test_json_is_readable_and_comes_back(tmp_path: Path) -> None:
    content = {"b": ["ü", 1.5, None], "a": {"x": True}}
    write_json(tmp_path / "deep" / "x.json", content)
    text = (tmp_path / "deep" / "x.json").read_text(encoding="utf-8")
    assert "ü" in text
    assert text.endswith("}\n")
    assert read_json(tmp_path / "deep" / "x.json", made_by="") == content


def test_missing_and_broken_json_say_how_to_make_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"x.json is not there; make it with: t2s prepare shop"):
        read_json(tmp_path / "x.json", made_by="t2s prepare shop")
    (tmp_path / "x.json").write_text('{"a":')
    with pytest.raises(DataError, match=r"x.json is not JSON .* make it again with: t2s prepare shop"):
        read_json(tmp_path / "x.json", made_by="t2s prepare shop")
    (tmp_path / "x.json").write_bytes(b"\xff")
    with pytest.raises(DataError, match="is not JSON"):
        read_json(tmp_path / "x.json", made_by="t2s prepare shop")


def test_a_manifest_holds_version_and_facts(tmp_path: Path) -> None:
    write_manifest(tmp_path, "abc", {"rows": 3})
    assert read_manifest(tmp_path, made_by="") == {"data_version": "abc", "rows": 3}


# --------------------------------------------------------------------------------------------------------- hashes


def test_content_decides_a_hash() -> None:
    assert content_hash({"a": 1, "b": [1, "x"]}) == content_hash({"b": [1, "x"], "a": 1})
    different: list[tuple[Any, ...]] = [(), (1,), ("1",), (1, 2), ([1, 2],), ({"a": 1},), ({"a": 2},), (None,), ("ü",)]
    assert len({content_hash(*parts) for parts in different}) == len(different)
    assert len(content_hash("x")) == 16


def test_a_hash_is_the_same_in_every_process() -> None:
    code = "from t2s_assets.text2sql.storage import content_hash; print(content_hash({'a': [1, 'ü'], 'b': None}))"
    seeds = ("0", "1")
    said = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": s}, capture_output=True, text=True
        ).stdout.strip()
        for s in seeds
    }
    assert said == {content_hash({"b": None, "a": [1, "ü"]})}


def test_file_hashes_are_sha256(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    assert file_hash(tmp_path / "x") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert file_hash(tmp_path / "x", length=8) == "ba7816bf"
    before = time.time()
    os.utime(tmp_path / "x", (before - 100, before - 100))
    assert file_hash(tmp_path / "x", length=8) == "ba7816bf"


@pytest.mark.parametrize("name", ["**", "[a]", "a*b"])
def test_names_with_signs_of_patterns_are_names(tmp_path: Path, name: str) -> None:
    for kept in ("acb", "a"):
        (tmp_path / f".{kept}.0123abcd.old").mkdir()
    restore_interrupted(tmp_path / name)
    assert not (tmp_path / name).exists()


def test_a_file_system_that_flushes_no_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed, fsync = [], os.fsync

    def only_files(opened: int) -> None:
        if stat.S_ISDIR(os.fstat(opened).st_mode):
            raise OSError(errno.EINVAL, "Invalid argument")
        flushed.append(opened)
        fsync(opened)

    monkeypatch.setattr(os, "fsync", only_files)
    with replacing_folder(tmp_path / "asset") as fresh:
        (fresh / "a").write_text("a")
    assert (tmp_path / "asset" / "a").read_text() == "a" and flushed
