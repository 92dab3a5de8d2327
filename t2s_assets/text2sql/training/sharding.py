"""FSDP: each rank holds its share of every layer's weights and gathers a layer only while it is computed.

The base is read into the memory of the host on every rank, and moves to the device in shares. The adapter comes back
whole, so that its folder is like any other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from t2s_assets.text2sql import base_models

if TYPE_CHECKING:
    from t2s_assets.text2sql.config import TrainingConfig


def sharding_arguments(config: TrainingConfig) -> dict[str, Any]:
    """What transformers' arguments say about sharding."""
    if config.sharding == "none":
        return {}
    # Version 2 shards each parameter by itself, so that frozen and trained ones may stand in one layer.
    return {"fsdp": True, "fsdp_config": {"version": 2, "reshard_after_forward": True}}


def load_model(base: base_models.BaseModel, placement: base_models.Placement, config: TrainingConfig) -> Any:
    """The base for training: on the device, or in the host's memory where it is going to be sharded."""
    where = placement if config.sharding == "none" else replace(placement, device="cpu")
    return base_models.load_model(base, where)


def whole_adapter(model: Any) -> dict[str, Any] | None:
    """The trained parameters by name, gathered from all ranks; None where each has them whole. Called by every rank."""
    from torch.distributed.tensor import DTensor

    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not any(isinstance(p, DTensor) for p in trained.values()):
        return None
    return {name: (p.full_tensor() if isinstance(p, DTensor) else p).detach().cpu() for name, p in trained.items()}
