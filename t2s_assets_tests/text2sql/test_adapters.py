"""An adapter's folder as a model again: on its own base, or not at all."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.errors import DataError, ModelError
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import save_adapter
from t2s_assets_tests.trainable import add_towns

CPU = base_models.Placement("cpu", "float32", "sdpa", "none")


@pytest.fixture
def saved(project_files: ProjectFiles, tiny_base: Path, tmp_path: Path) -> tuple[ProjectFiles, Path, Path]:
    """A project, the folder of its adapter, and a base model of its own to spoil."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    files = add_towns(project_files, base)
    return files, save_adapter(files.project, "towns", "tiny"), base


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.inference_mode():
        return model(torch.tensor([tokenizer('SELECT "Town" FROM t').input_ids])).logits


def test_it_loads_on_its_base_and_changes_it(saved: tuple[ProjectFiles, Path, Path]) -> None:
    import torch
    from peft import PeftModel

    files, folder, base_folder = saved
    adapter = adapters.open_adapter(folder, made_by="")
    tuned, tokenizer = adapters.load_tuned(adapter, files.project, CPU)
    assert not tuned.training
    base = base_models.BaseModel(base_folder, adapter.base_identity, {})
    untuned = base_models.load_model(base, CPU)
    beside = PeftModel.from_pretrained(base_models.load_model(base, CPU), str(folder)).eval()
    assert not torch.allclose(logits(tuned, tokenizer), logits(untuned, tokenizer), atol=1e-2)
    torch.testing.assert_close(logits(tuned, tokenizer), logits(beside, tokenizer), atol=1e-4, rtol=1e-3)


def test_on_other_weights_it_is_refused(saved: tuple[ProjectFiles, Path, Path]) -> None:
    from t2s_assets_tests.tiny import tiny_model

    files, folder, base_folder = saved
    adapter = adapters.open_adapter(folder, made_by="")
    vocabulary = len(base_models.tokenizer_from(base_folder))
    other = tiny_model(vocabulary, hidden_size=64, intermediate_size=128, num_attention_heads=4, rms_norm_eps=1e-5)
    with_other_weights = {n: p + 1 for n, p in other.state_dict().items()}
    other.load_state_dict(with_other_weights)
    other.save_pretrained(str(base_folder))
    with pytest.raises(ModelError) as caught:
        adapters.load_tuned(adapter, files.project, CPU)
    message = str(caught.value)
    assert adapter.base_identity in message
    assert str(folder) in message and str(base_folder) in message
    assert "train again" in message


def test_a_base_that_is_gone_is_named(saved: tuple[ProjectFiles, Path, Path]) -> None:
    files, folder, base_folder = saved
    shutil.rmtree(base_folder)
    with pytest.raises(ModelError, match=str(base_folder)):
        adapters.load_tuned(adapters.open_adapter(folder, made_by=""), files.project, CPU)


def test_it_keeps_the_settings_it_was_trained_with(saved: tuple[ProjectFiles, Path, Path], tmp_path: Path) -> None:
    """A config edited later, even to another base, does not change what the adapter is."""
    files, folder, _ = saved
    trained = files.project.experiment("towns", "tiny")
    files.experiment("towns", "tiny", base=tmp_path / "another", prompt={"template": "chat"})
    adapter = adapters.open_adapter(folder, made_by="")
    assert adapter.experiment == trained
    assert adapter.format.template == "plain"
    adapters.load_tuned(adapter, files.project, CPU)


def test_another_base_is_another_training(saved: tuple[ProjectFiles, Path, Path], tmp_path: Path) -> None:
    files, folder, base = saved
    adapter = adapters.open_adapter(folder, made_by="")
    trained = files.project.experiment("towns", "tiny")
    assert adapters.trained_otherwise(adapter, trained) == []
    files.yaml("towns", "copy", {"description": "d", "like": "tiny", "decoding": {"max_new_tokens": 9}})
    assert adapters.trained_otherwise(adapter, files.project.experiment("towns", "copy")) == []
    files.yaml("towns", "gguf", {"description": "d", "like": "tiny", "base_model": {"source": "gguf", "path": "x"}})
    assert adapters.trained_otherwise(adapter, files.project.experiment("towns", "gguf")) == [
        f"base_model.path was {base}, is x",
        "base_model.source was folder, is gguf",
    ]


def test_its_size_is_that_of_the_weights(saved: tuple[ProjectFiles, Path, Path]) -> None:
    _, folder, _ = saved
    adapter = adapters.open_adapter(folder, made_by="")
    assert adapter.size_mb == (folder / "adapter_model.safetensors").stat().st_size / 1e6 > 0


def test_one_that_was_never_trained_says_how_to(saved: tuple[ProjectFiles, Path, Path]) -> None:
    files, _, _ = saved
    with pytest.raises(DataError, match="make it with: t2s train towns/gone"):
        adapters.open_adapter(files.project.path("towns", "adapter", "gone"), made_by="t2s train towns/gone")


def test_one_without_weights_is_not_whole(saved: tuple[ProjectFiles, Path, Path]) -> None:
    _, folder, _ = saved
    (folder / adapters.WEIGHTS).unlink()
    with pytest.raises(
        ModelError, match=r"adapter_model.safetensors is missing; train again with: t2s train towns/tiny"
    ):
        adapters.open_adapter(folder, made_by="t2s train towns/tiny")


@pytest.mark.parametrize("name", ["manifest.json", adapters.RESOLVED_CONFIG, "prompt_format.json"])
def test_a_damaged_record_is_named(saved: tuple[ProjectFiles, Path, Path], name: str) -> None:
    _, folder, _ = saved
    (folder / name).write_text('{"half": ')
    with pytest.raises(DataError, match=name.replace(".", r"\.")):
        adapters.open_adapter(folder, made_by="t2s train towns/tiny")
