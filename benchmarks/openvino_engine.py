"""OpenVINO GenAI as an engine of `decoding.py`: the model's weights, written into the GGUF of its base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
OUTSIDE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def parameter_of(tensor: str) -> str:
    """The name in transformers' Llama of a GGUF's tensor: `blk.3.attn_q.weight` is `model.layers.3.self_attn...`."""
    parts = tensor.split(".")
    if parts[0] == "blk":
        return f"model.layers.{parts[1]}.{LAYER[parts[2]]}.{parts[3]}"
    return f"{OUTSIDE[parts[0]]}.{parts[1]}"


def write_gguf(model: Any, base: Path, path: Path) -> None:
    """`model`, a causal LM of the Llama family, as a GGUF at `path`: matrices in float16, the rest as `base` has it."""
    import gguf
    import torch

    reader = gguf.GGUFReader(base)
    config, weights = model.config, model.state_dict()
    writer = gguf.GGUFWriter(path, reader.get_field(gguf.Keys.General.ARCHITECTURE).contents())
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == gguf.Keys.General.ARCHITECTURE:
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = field.contents()
        if field.name == gguf.Keys.General.FILE_TYPE:
            value = int(gguf.LlamaFileType.MOSTLY_F16)
        writer.add_key_value(field.name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        value = weights[parameter_of(tensor.name)].to(torch.float32).numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        if (count := heads.get(tensor.name.split(".")[-2])) is not None:
            # A GGUF has the two halves that rotary embedding turns beside each other.
            value = value.reshape(count, 2, -1, value.shape[1]).swapaxes(1, 2).reshape(value.shape)
        writer.add_tensor(tensor.name, value.astype("float16" if value.ndim > 1 else "float32"))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class OpenVino:
    """An LLMPipeline on a GGUF, greedy, on as many threads of the CPU."""

    def __init__(self, path: Path, *, threads: int, max_new_tokens: int) -> None:
        """Raises ImportError where openvino-genai is not installed."""
        import openvino_genai

        self._pipeline = openvino_genai.LLMPipeline(str(path), "CPU", INFERENCE_NUM_THREADS=threads)
        self._settings = openvino_genai.GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, apply_chat_template=False
        )

    def answer(self, prompts: list[str]) -> tuple[list[str], int, float]:
        """(texts, tokens in all, seconds to the first token)."""
        found = self._pipeline.generate(prompts, self._settings)
        metrics = found.perf_metrics
        return list(found.texts), metrics.get_num_generated_tokens(), metrics.get_ttft().mean / 1000
