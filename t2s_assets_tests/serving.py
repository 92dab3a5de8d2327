"""Adapters for tests of inference: real folders on the tiny base, with random LoRA weights, so without training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.prepare import gold_of
from t2s_assets.text2sql.prompts import resolve_format
from t2s_assets.text2sql.storage import Project, file_hash, write_json, write_manifest
from t2s_assets_tests.projects import ProjectFiles, question, table

Made = tuple[list[dict[str, Any]], list[dict[str, Any]]]

ONE_EACH: dict[str, Made] = {
    split: (
        [table(split, ["Name", "Height (m)"], "tr", [["K2", "8,611"], ["Lhotse", "8516"]])],
        [
            question(split, "How high is K2?", 1, 0, [[0, 0, "K2"]]),
            question(split, "Which are over 8600?", 0, 0, [[1, 1, 8600]]),
        ],
    )
    for split in ("train", "dev", "test")
}
"""The smallest dataset that can be trained on, evaluated and reported."""


def save_adapter(project: Project, dataset: str, experiment: str, *, seed: int = 11) -> Path:
    """The adapter that training would leave for an experiment, with random weights instead of trained ones."""
    import torch
    from peft import LoraConfig, get_peft_model

    config = project.experiment(dataset, experiment)
    base = base_models.fetch(config.base_model, project)
    placement = base_models.place(config.hardware)
    tokenizer = base_models.load_tokenizer(base)
    torch.manual_seed(seed)
    lora = LoraConfig(
        r=config.lora.rank,
        lora_alpha=config.lora.alpha,
        target_modules=list(config.lora.targets),
        task_type="CAUSAL_LM",
        init_lora_weights=False,
    )
    folder = project.path(dataset, "adapter", experiment)
    get_peft_model(base_models.load_model(base, placement), lora).save_pretrained(
        str(folder), save_embedding_layers=False
    )
    tokenizer.save_pretrained(str(folder))
    resolve_format(config.prompt, tokenizer, gold_of(project, dataset).FORMAT).save(folder)
    write_json(
        folder / adapters.RESOLVED_CONFIG,
        {"experiment": config.resolved(), "base_identity": base.identity},
    )
    write_manifest(folder, file_hash(folder / adapters.WEIGHTS, length=16), {"adapter_mb": 0.1})
    return folder


def save_served(files: ProjectFiles, base: Path) -> ProjectFiles:
    """A dataset `peaks` with adapters: `tiny` (grammar), `free` (none), `samples` (with cell values), and `short`.

    `short` has other weights than the rest.
    """
    files.dataset("peaks", ONE_EACH)
    experiments: dict[str, dict[str, Any]] = {
        "tiny": {},
        "free": {"decoding": {"grammar": "none", "max_new_tokens": 24}},
        "samples": {"prompt": {"template": "samples", "max_length": 512}},
        "short": {"prompt": {"max_length": 48}},
    }
    for name, sections in experiments.items():
        files.experiment("peaks", name, base=base, **sections)
        save_adapter(files.project, "peaks", name, seed=12 if name == "short" else 11)
    files.experiment("peaks", "untrained", base=base)
    return files
