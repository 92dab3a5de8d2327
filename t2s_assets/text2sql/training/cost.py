"""What a training needs, from shapes alone: parameters, the adapter's size, memory. No weights are read.

The count follows what autograd keeps of one pass through a decoder of the Llama family (Llama, Qwen2, Mistral,
SmolLM2, TinyLlama) whose weights are frozen and whose linear layers have LoRA adapters. Sizes are bytes, GB are 10^9.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import LoraSettings, TrainingConfig
from t2s_assets.text2sql.errors import ModelError

# NF4 with double quantisation: half a byte a weight, one byte a block of 64, four bytes a group of 256 blocks.
_NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
# What a process holds before any weights: libraries and the tokenised examples; on a GPU, its context.
_RUNTIME = {"cpu": 0.62e9, "mps": 1.0e9, "cuda": 0.6e9}
# More of it on a CPU where torch is a CUDA build: importing it loads CUDA's libraries and Triton, GPU or none.
_CUDA_BUILD = 0.37e9
# Memory that allocators hold and do not use, as a share of what passes through them. A CPU's heap is left to grow
# (`training.environment`), since giving pages back and faulting them in again takes a third of the time.
_UNUSED = {"cpu": 0.70, "mps": 0.15, "cuda": 0.10}
_UNUSED_FUSED = 0.25

COUNTED = ("llama", "mistral", "qwen2")
"""`model_type` of those whose layers are what `Shape` counts. Others have the same fields and other layers: norms of
queries and keys (qwen3), joint projections (phi3), two products in an MLP (gpt_neox), experts (mixtral); or the same
layers that do not run fused on a CPU (granite)."""

PAD_TO = 16
"""Widths of batches are multiples of this: few distinct ones let a CPU's kernels and the allocator reuse their work."""
PASS_TOKENS = 768
"""Padded tokens that one forward and backward pass takes on a CPU; a wider batch is taken in several with the same
gradient. What a pass keeps for its backward half grows with its tokens, and larger ones are no faster there."""
FLAT_PAD_TO = 32
"""Lengths of the flat sequences that `fused` takes are multiples of this: no row is padded to it, only the sequence."""
ROW_ENTRIES = 32
"""Rows of the matrices of `joint_linears` have room for multiples of as many entries."""
LOGITS_ROWS = 256
"""Rows of logits that a pass of `fused` makes at a time: with 49,152 tokens in bfloat16, 25 MB."""
LANE_TOKENS = 128
"""Tokens of a pass that runs beside others, at least: each reads all weights. Two of 150 are a sixth faster than one
of 300 whose products two threads share."""

# Tokens of lanes that are filled up to the longest, against those of their examples: with more, fewer lanes whose
# products threads share are as fast.
_FILLED_UP = 1.2


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder: `heads` and `key_heads` of `head_size` each; `tied`: the head is the embedding."""

    vocabulary: int
    hidden: int
    intermediate: int
    layers: int
    heads: int
    key_heads: int
    head_size: int
    tied: bool
    attention_bias: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any], *, where: str = "config.json") -> Shape:
        """The shape in a transformers `config.json`. Raises ModelError when it is not of this family."""
        if (family := config.get("model_type")) not in COUNTED:
            raise ModelError(
                f"{where}: model_type: layers of {', '.join(COUNTED)} are counted; got {family!r}, whose memory and "
                "adapter's size cannot be told before it is trained"
            )
        try:
            heads = int(config["num_attention_heads"])
            return cls(
                vocabulary=int(config["vocab_size"]),
                hidden=int(config["hidden_size"]),
                intermediate=int(config["intermediate_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                key_heads=int(config.get("num_key_value_heads") or heads),
                head_size=int(config.get("head_dim") or config["hidden_size"] // heads),
                tied=bool(config.get("tie_word_embeddings", False)),
                attention_bias=bool(config.get("attention_bias", config.get("model_type") == "qwen2")),
            )
        except (KeyError, TypeError, ValueError) as e:
            raise ModelError(
                f"{where}: no shape of a Llama-like decoder can be read ({e!r}), so its cost cannot be told"
            ) from e

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(inputs, outputs) of each linear layer of one decoder layer."""
        queries, keys = self.heads * self.head_size, self.key_heads * self.head_size
        return {
            "q_proj": (self.hidden, queries),
            "k_proj": (self.hidden, keys),
            "v_proj": (self.hidden, keys),
            "o_proj": (queries, self.hidden),
            "gate_proj": (self.hidden, self.intermediate),
            "up_proj": (self.hidden, self.intermediate),
            "down_proj": (self.intermediate, self.hidden),
        }

    @property
    def linear_parameters(self) -> int:
        """Weights of the linear layers of all decoder layers: what NF4 quantises."""
        return self.layers * sum(i * o for i, o in self.linears.values())

    @property
    def parameters(self) -> int:
        """All weights."""
        biases = self.attention_bias * sum(self.linears[n][1] for n in ("q_proj", "k_proj", "v_proj"))
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.linear_parameters + self.layers * (2 * self.hidden + biases) + self.hidden

    def adapter_parameters(self, lora: LoraSettings) -> int:
        """Weights of the LoRA matrices. Raises ModelError for a target that is no linear layer here."""
        if missing := sorted(set(lora.targets) - set(self.linears)):
            raise ModelError(
                f"lora.targets: {missing} are no linear layers of this base; there are {sorted(self.linears)}"
            )
        return self.layers * lora.rank * sum(sum(self.linears[t]) for t in set(lora.targets))

    def frozen_flops(self, tokens: int, labelled: int) -> float:
        """Floating-point operations of training in products with frozen weights, forward and backward: 4 a weight.

        Those of the output layer count for the `labelled` tokens only: no other needs its logits.
        """
        return 4.0 * (self.linear_parameters * tokens + self.vocabulary * self.hidden * labelled)

    def flops(self, lengths: Sequence[int], labelled: int, lora: LoraSettings) -> float:
        """Those of all matrix products that training on examples of `lengths` tokens needs.

        Besides `frozen_flops`, 6 for each LoRA weight and token, and 12 for each layer, query entry and pair of tokens
        of an example in attention. Counted as in model FLOPs utilisation (Chowdhery et al. 2022, arXiv:2204.02311,
        appendix B), where all weights have 6: frozen ones have no gradient. Padding, shared schemas and what an engine
        computes twice change nothing here.
        """
        tokens, pairs = sum(lengths), sum(n * n for n in lengths)
        attention = 12.0 * self.layers * self.heads * self.head_size * pairs
        return self.frozen_flops(tokens, labelled) + 6.0 * self.adapter_parameters(lora) * tokens + attention


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak of training, by what holds them."""

    runtime: float
    weights: float
    adapter: float
    activations: float
    logits: float
    unused: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.runtime + self.weights + self.adapter + self.activations + self.logits + self.unused

    @property
    def gb(self) -> float:
        """All of it in 10^9 bytes."""
        return self.total / 1e9


def sharded(whole: Memory, shape: Shape, ranks: int) -> Memory:
    """What each of `ranks` holds under FSDP: its share of weights and adapter, and two layers that are gathered.

    Embeddings and output head are gathered as one group.
    """
    layer = whole.weights * sum(i * o for i, o in shape.linears.values()) / shape.parameters
    group = whole.weights * shape.vocabulary * shape.hidden * (1 if shape.tied else 2) / shape.parameters
    gathered = min(whole.weights, group + 2 * layer)
    return replace(whole, weights=min(whole.weights, whole.weights / ranks + gathered), adapter=whole.adapter / ranks)


def adapter_bytes(shape: Shape, lora: LoraSettings) -> float:
    """Size of adapter_model.safetensors: float32 matrices, and about 100 bytes of header for each."""
    return 4.0 * shape.adapter_parameters(lora) + 200.0 * shape.layers * len(set(lora.targets))


def weight_bytes(shape: Shape, placement: Placement) -> float:
    """The frozen base in memory: with NF4 the linear layers shrink, embeddings and head keep their type."""
    each = _size(placement)
    if placement.quantization == "none":
        return float(each * shape.parameters)
    return _NF4_BYTES * shape.linear_parameters + each * (shape.parameters - shape.linear_parameters)


def layer_bytes(shape: Shape, lora: LoraSettings, placement: Placement, width: int) -> float:
    """What autograd keeps of one decoder layer for each token of a row of `width` tokens.

    Float32: inputs and outputs of both norms, query, repeated keys and values, attention's output, four tensors
    around the MLP's product, and the LoRA bottlenecks. With 16-bit types the norms keep float32
    copies, and each LoRA matrix a cast copy of its input. With `lora.dropout`, its mask is kept too, and what it
    leaves of each LoRA matrix' input where that is no cast copy already.
    """
    h, i, q = shape.hidden, shape.intermediate, shape.heads * shape.head_size
    repeated = q if shape.key_heads != shape.heads else shape.key_heads * shape.head_size
    each, ranks = _size(placement), lora.rank * len(set(lora.targets))
    attention = q + 2 * repeated + q
    if placement.device == "cpu":  # its kernel keeps the mask
        attention += width
    if placement.device == "mps":  # it has no kernel for training: weights, and what they are made of in float32
        attention = q + (3 * q + shape.heads * width) * (4 / each)
    copies = sum(shape.linears[t][0] for t in set(lora.targets))
    # Each LoRA matrix' input after dropout, and a byte of its mask. CUDA's kernel keeps no more than the mask, and in
    # 16 bits what it leaves is itself the cast copy that is counted below.
    dropped = copies * (1.0 if placement.device == "cuda" and each == 2 else each + 1.0) if lora.dropout else 0.0
    if each == 4:
        return 4.0 * (2 * h + 2 * h + attention + 4 * i + ranks + 2 + shape.heads) + dropped
    return each * (attention + 3 * i + copies + ranks) + 4.0 * (2 * h + 2 + shape.heads) + dropped


def fused_layer_bytes(shape: Shape, lora: LoraSettings, placement: Placement, width: int) -> float:
    """What `fused` keeps of one decoder layer for each token of a row of `width` tokens.

    Query, key and value and attention's weights; side by side with their LoRA bottlenecks attention's output, what both
    norms give, and the product of gate and up, and with that of their gradients gate and up; in float32 the residual
    stream in front of each norm, and a number for each norm.
    """
    q, kv, h, i = shape.heads * shape.head_size, shape.key_heads * shape.head_size, shape.hidden, shape.intermediate
    gate_up = ("gate_proj", "up_proj")
    kept = q + 2 * kv + shape.heads * width
    kept += _with_bottleneck(h, lora, "q_proj", "k_proj", "v_proj") + _with_bottleneck(q, lora, "o_proj")
    kept += _with_bottleneck(h, lora, *gate_up) + _with_bottleneck(2 * i, lora, *gate_up)
    kept += _with_bottleneck(i, lora, "down_proj")
    return _size(placement) * kept + 8.0 * (h + 1)


def _with_bottleneck(entries: int, lora: LoraSettings, *layers: str) -> int:
    """Entries of a row that holds `entries`, an input or output of joint `layers`, and room for their bottleneck."""
    return room(entries + lora.rank * len(set(layers) & set(lora.targets)))


def room(entries: int) -> int:
    """The length of a row with at least `entries`."""
    return -(-entries // ROW_ENTRIES) * ROW_ENTRIES


def why_not_fused(lora: LoraSettings, training: TrainingConfig, placement: Placement) -> str | None:
    """Which setting keeps layers from running as `fused` writes them, on a CPU and on whole weights; None where none
    does."""
    if placement.device != "cpu":
        return f"hardware.device is {placement.device}"
    if placement.dtype not in ("bfloat16", "float32"):
        return f"hardware.dtype is {placement.dtype}"
    if placement.quantization != "none":
        return f"hardware.quantization is {placement.quantization}"
    if training.sharding != "none":
        return f"training.sharding is {training.sharding}"
    if lora.dropout:
        return f"lora.dropout is {lora.dropout}"
    asked = [name for name in ("packing", "gradient_checkpointing", "compile") if getattr(training, name)]
    return f"training.{asked[0]} is true" if asked else None


def fused_pass_tokens(placement: Placement) -> int:
    """PASS_TOKENS for layers that run as `fused` writes them, which keep less of a token."""
    return 1024 if _size(placement) == 4 else 1792


def flat_length(tokens: int) -> int:
    """The length of a flat sequence of `tokens` tokens, which is filled up."""
    return -(-tokens // FLAT_PAD_TO) * FLAT_PAD_TO


def most_lanes(tokens: int, threads: int) -> int:
    """Into how many passes that run side by side `tokens` tokens may be shared out: at least one."""
    return max(1, min(threads, tokens // LANE_TOKENS))


def most_held(tokens: int, pass_tokens: int, lanes: int) -> int:
    """Tokens of a round that `lanes` passes hold at most, all filled up to the longest, where its own are `tokens`."""
    filled_up = min(int(_FILLED_UP * tokens), pass_tokens + lanes * FLAT_PAD_TO)
    return max(flat_length(tokens), filled_up if lanes > 1 else 0)


def rows_a_pass(rows: int, width: int, pass_tokens: int) -> int:
    """Into how many rows a batch is cut for passes of at most `pass_tokens` padded tokens, evenly; at least one."""
    most = max(1, min(rows, pass_tokens // width))
    return -(-rows // -(-rows // most))


def widest_pass(batch_size: int, longest: int, pass_tokens: int | None) -> tuple[int, int]:
    """(rows, width) of the largest pass among batches of up to `longest` tokens, cut as `rows_a_pass` does."""
    width = -(-longest // PAD_TO) * PAD_TO
    if pass_tokens is None:
        return batch_size, width
    sizes = [(rows_a_pass(batch_size, w, pass_tokens), w) for w in range(PAD_TO, width + 1, PAD_TO)]
    return max(sizes, key=lambda s: (s[0] * s[1], s[1]))


def most_labelled(lengths: Sequence[int], labelled: Sequence[int], *, row: int) -> int:
    """Labelled tokens of a packed row of `row` tokens at most, from those of each example and its length."""
    return math.ceil(row * max(n / length for n, length in zip(labelled, lengths)))


def memory(
    shape: Shape,
    lora: LoraSettings,
    training: TrainingConfig,
    placement: Placement,
    *,
    longest: int,
    longest_completion: int,
    threads: int,
    longest_batch: int | None = None,
) -> Memory:
    """The peak of one process. `longest` and `longest_completion`: tokens of the longest example and completion;
    `threads`: on a CPU, as many as torch has in the process.

    `longest_batch`: with shared schemas (`questions_a_table`), the tokens of the longest batch, which is one row, and
    one pass where layers are not fused; `longest_completion` is then a batch's too. With `packing` an example is a
    packed row, and its completion all that is learnt of it: `most_labelled` of a row.
    """
    fused = why_not_fused(lora, training, placement) is None
    limit = PASS_TOKENS if placement.device == "cpu" else None
    lanes = 1
    if fused:
        pass_tokens = fused_pass_tokens(placement)
        together = min(longest_batch or training.batch_size * longest, max(pass_tokens, longest))
        lanes = most_lanes(together, threads)
        rows, width = 1, most_held(together, pass_tokens, lanes)
    elif longest_batch is not None:
        rows, width = 1, -(-longest_batch // PAD_TO) * PAD_TO
    else:
        rows, width = widest_pass(training.batch_size, longest, limit)
    tokens, labelled = rows * width, rows * min(longest_completion, width)
    if fused:
        layer = fused_layer_bytes(shape, lora, placement, -(-longest // PAD_TO) * PAD_TO) * tokens
        labelled = min(tokens, LOGITS_ROWS)
    else:
        layer = layer_bytes(shape, lora, placement, width) * tokens
    activations = layer * shape.layers
    if training.gradient_checkpointing:
        activations = layer + _size(placement) * shape.hidden * tokens * shape.layers
    # Logits in the compute type, in place of which `fused` makes their gradient, for each lane; else in float32 too,
    # and their gradient and the softmax have memory of their own.
    logits = labelled * shape.vocabulary * (lanes * _size(placement) if fused else 16.0)
    adam = 2.0 if placement.device == "cuda" and placement.quantization == "nf4" else 8.0
    adapter = shape.adapter_parameters(lora) * (4.0 + 4.0 + adam)
    if fused:
        # Each lane's float32 sums of gradients, and what products take; B's as blocks of larger matrices.
        adapter += shape.adapter_parameters(lora) * 2 * (4.0 * lanes + _size(placement))
    weights = weight_bytes(shape, placement)
    if fused:
        # Joint layers are copies; what they are made from stays, in pages of the file or of the heap.
        weights += _size(placement) * shape.layers * sum(i * o for i, o in shape.linears.values())
    if placement.quantization == "nf4":
        weights += _size(placement) * max(i * o for i, o in shape.linears.values())  # the one being multiplied
    unused = (_UNUSED_FUSED if fused else _UNUSED[placement.device]) * (activations + logits)
    return Memory(_runtime(placement), weights, adapter, activations, logits, unused)


def _runtime(placement: Placement) -> float:
    if placement.device != "cpu":
        return _RUNTIME[placement.device]
    import torch

    return _RUNTIME["cpu"] + (_CUDA_BUILD if torch.version.cuda else 0.0)


def _size(placement: Placement) -> int:
    return 4 if placement.dtype == "float32" else 2
