"""torch.compile for a training step: each decoder layer by itself, and nothing around them.

Layers are alike, so that what is compiled for one serves all (PyTorch's "regional compilation", as accelerate has it
for whole models): a base of 24 layers compiles as fast as one of 2. Lengths of batches are symbols in it from the
start. What stands around the layers depends on the data: whether a batch has padding that needs a mask, which tokens
have a label and go on to the output layer. Compiled, each would break the graph in every step.
"""

from __future__ import annotations

from typing import Any

from t2s_assets.text2sql.errors import ModelError

# Programs kept of a layer. They differ in whether gradients are wanted, of the layer's input too (the first layer's
# comes from frozen embeddings), and in whether there is a mask and more than one row. Where they were used up, layers
# would run as they are, and only a warning of torch would say so.
_PROGRAMS = 16


def compile_layers(model: Any, **options: Any) -> None:
    """Have the decoder layers of `model` compiled when they first run, in place: names and weights stay as they are.

    `options` are torch.compile's. For answers, whose keys and values are kept, run `model` within `as_written`.

    Raises:
        ModelError: it has no layers that transformers' models mark as the repeated ones.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    layers = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"training.compile: {type(model).__name__} has no decoder layers that could be compiled; remove it"
        )
    for layer in layers:
        layer.compile(dynamic=True, recompile_limit=_PROGRAMS, **options)


def as_written() -> Any:
    """A context in which compiled layers run as they are written: compiling is not worth it for what runs once."""
    import torch

    return torch.compiler.set_stance("force_eager")
