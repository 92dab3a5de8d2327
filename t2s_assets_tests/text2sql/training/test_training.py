"""Training on a tiny base: what an adapter's folder holds, budgets, what settings do, and what is refused."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from t2s_assets.text2sql import adapters, base_models, training
from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError, PromptError, T2SError
from t2s_assets.text2sql.prompt_datasets import make_prompts
from t2s_assets.text2sql.storage import Project, file_hash, read_json
from t2s_assets.text2sql.trained import find_adapter
from t2s_assets.text2sql.training import plan
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.trainable import TOWNS, add_experiment, add_towns, prepare
from t2s_assets_tests.training_runs import Make, break_off, checkpoints, train

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def trained(towns: ProjectFiles) -> Path:
    """The folder of an adapter, trained by the command that Dagster runs too."""
    training.run(towns.project, "towns", "tiny")
    return towns.project.path("towns", "adapter", "tiny")


# ------------------------------------------------------------------------------------------- the adapter's folder


def test_the_folder_is_complete(trained: Path) -> None:
    assert {p.name for p in trained.iterdir()} >= {
        "adapter_config.json",
        "adapter_model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "prompt_format.json",
        "trainer_state.json",
        "experiment.json",
        "training.json",
        "loss.png",
        "manifest.json",
    }
    assert (trained / "loss.png").read_bytes().startswith(b"\x89PNG")
    history = read_json(trained / "trainer_state.json", made_by="")["log_history"]
    assert [h["step"] for h in history if "eval_loss" in h] == [2, 4]


def test_only_the_adapter_is_left_behind(trained: Path, towns: ProjectFiles) -> None:
    assert [p.name for p in trained.parent.iterdir() if p.name.startswith(".")] == []
    assert checkpoints(towns, "tiny") == {}


def test_the_manifest_says_what_happened(trained: Path, towns: ProjectFiles) -> None:
    facts = read_json(trained / "manifest.json", made_by="")
    assert facts["data_version"] == file_hash(trained / adapters.WEIGHTS, length=16)
    assert (facts["steps"], facts["planned_steps"], facts["examples_seen"]) == (4, 4, 16)
    assert facts["epochs"] == round(16 / 18, 3)
    assert facts["world_size"] == 1
    assert facts["adapter_mb"] == round((trained / adapters.WEIGHTS).stat().st_size / 1e6, 2)
    assert facts["trainable_share"] == round(facts["trainable_parameters"] / facts["parameters"], 5)
    assert 0 < facts["trainable_share"] < 0.5
    for name in ("train_loss", "validation_loss", "examples_a_second", "tokens_a_second", "peak_memory_gb"):
        assert math.isfinite(facts[name]) and facts[name] > 0, name
    assert set(facts["versions"]) == {
        *("python", "torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate"),
        *("numba", "llvmlite"),
    }
    assert set(facts["machine"]) == {"platform", "cpu", "cpu_capability", "threads"}
    assert all(facts["machine"].values())
    assert facts["git_commit"] is None or len(facts["git_commit"].removesuffix("-dirty")) == 40
    prompts = read_json(towns.project.path("towns", "prompts", "tiny") / "manifest.json", made_by="")
    assert facts["prompts_version"] == prompts["data_version"]


def test_the_resolved_settings_are_kept(trained: Path, towns: ProjectFiles) -> None:
    adapter = adapters.open_adapter(trained, made_by="")
    assert adapter.experiment == towns.project.experiment("towns", "tiny")
    kept = read_json(trained / adapters.RESOLVED_CONFIG, made_by="")
    assert kept["placement"] == {"device": "cpu", "dtype": "float32", "attention": "sdpa", "quantization": "none"}


def test_a_finished_training_is_not_repeated(trained: Path, towns: ProjectFiles) -> None:
    before = (trained / adapters.WEIGHTS).stat().st_mtime_ns
    manifest, lines = train(towns, "tiny")
    assert [line for line in lines if line.startswith("already trained")]
    assert (trained / adapters.WEIGHTS).stat().st_mtime_ns == before
    assert manifest["steps"] == 4


def test_forced_again_it_gives_the_same_adapter_to_the_bit(trained: Path, towns: ProjectFiles) -> None:
    before = read_json(trained / "manifest.json", made_by="")
    written = (trained / adapters.WEIGHTS).stat().st_mtime_ns
    manifest, _ = train(towns, "tiny", force=True)
    assert (trained / adapters.WEIGHTS).stat().st_mtime_ns > written
    assert manifest["data_version"] == before["data_version"]


def test_two_lanes_train_the_same_adapter_again_to_the_bit(towns: ProjectFiles, experiment: Make) -> None:
    """Whichever is done first."""
    import torch

    from t2s_assets.text2sql.training.lanes import Lanes

    fused = {"max_steps": 8, "lora": {"rank": 4, "alpha": 8, "dropout": 0.0}}
    before, lanes = torch.get_num_threads(), []
    real = Lanes.run

    def run(self: Lanes, rounds: Any, **kwargs: Any) -> Any:
        lanes.append(max(len(passes) for passes in rounds))
        return real(self, rounds, **kwargs)

    torch.set_num_threads(2)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Lanes, "run", run)
            found = [train(towns, experiment(**fused))[0] for _ in range(2)]
    finally:
        torch.set_num_threads(before)
    assert lanes.count(2) > 8  # some batches are too small
    assert found[0]["data_version"] == found[1]["data_version"]
    assert found[0]["train_loss"] == found[1]["train_loss"]


def test_a_changed_setting_trains_again(towns: ProjectFiles, tiny_base: Path, experiment: Make) -> None:
    name = experiment(max_steps=2)
    first, _ = train(towns, name)
    add_experiment(towns, tiny_base, name, max_steps=2, seed=18)
    second, lines = train(towns, name)
    assert not [line for line in lines if line.startswith("already")]
    assert second["key"] != first["key"]
    assert second["data_version"] != first["data_version"]


def test_force_trains_over_an_adapter_whose_records_are_broken(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment(max_steps=2)
    first, _ = train(towns, name)
    manifest = towns.project.path("towns", "adapter", name) / "manifest.json"
    manifest.write_text("{")
    again, _ = train(towns, name, force=True)
    assert again["data_version"] == first["data_version"]


def test_an_adapter_whose_files_are_damaged_is_trained_again(towns: ProjectFiles, experiment: Make) -> None:
    """As what finds them so tells its user to."""
    name = experiment(max_steps=2)
    first, _ = train(towns, name)
    folder = towns.project.path("towns", "adapter", name)
    for file, content, problem in (
        ("manifest.json", "{", "manifest.json is not JSON"),
        ("experiment.json", None, "experiment.json is missing"),
        (adapters.WEIGHTS, None, f"{adapters.WEIGHTS} is missing"),
        (adapters.WEIGHTS, "cut off", f"{adapters.WEIGHTS} does not hold the weights that manifest.json tells of"),
        ("tokenizer.json", "{}", f"{folder}: no tokenizer can be loaded"),
    ):
        (folder / file).unlink() if content is None else (folder / file).write_text(content)
        again, lines = train(towns, name)
        assert lines[0].startswith(f"{folder}: {problem}") and lines[0].endswith(", so it is trained again")
        assert again["data_version"] == first["data_version"] and adapters.damage(folder) is None


@pytest.mark.parametrize(
    ("experiment", "prompts", "key"),
    [("smollm2-cpu", "ac9af74f0230d6a7", "92d74329ca55c9ed")],
)
def test_keys_of_trained_experiments_stay(experiment: str, prompts: str, key: str) -> None:
    """A version that adds a field must not train again what is trained; the key is an adapter's that exists."""
    configs = Path(__file__).resolve().parents[3] / "configs"
    config = Project(configs, configs).experiment("wikisql", experiment)
    config = config.model_copy(update={"training": config.training.model_copy(update={"learning_rate": 1e-3})})
    base = base_models.BaseModel(configs, "01a63a596b2dfb02", {})
    placement = base_models.Placement("cpu", "bfloat16", "sdpa", "none")
    assert training.training_key(config, prompts, base, placement) == key
    given = config.training.model_copy(update={"early_stopping": 3})
    assert training.training_key(config.model_copy(update={"training": given}), prompts, base, placement) != key


# -------------------------------------------------------------------------------------------------- which prompts


def test_prompts_must_be_there(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "unprepared")
    with pytest.raises(T2SError, match="t2s prepare towns/unprepared"):
        train(towns, "unprepared")


@pytest.mark.parametrize(
    ("prompt", "said"),
    [
        ({"max_length": 300}, r"prompt\.max_length was 512, is 300"),
        ({"template": "chat"}, r"prompt\.template was plain, is chat"),
    ],
)
def test_prompts_made_with_other_settings_are_refused(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, prompt: dict[str, Any], said: str
) -> None:
    """Before and after a training: else the adapter's records would tell of a prompt that it never saw."""
    name = experiment(max_steps=2)
    folder = towns.project.path("towns", "adapter", name)
    refused = rf"towns/{name}: its prompts were made with other settings \({said}\).*t2s prepare towns/{name}"
    add_experiment(towns, tiny_base, name, max_steps=2, prompt=prompt)
    for start in (training.train, training.launch, training.show_plan):
        with pytest.raises(DataError, match=refused):
            start(towns.project, "towns", name)
    assert not folder.exists()
    add_experiment(towns, tiny_base, name, max_steps=2)
    train(towns, name)
    before = (folder / adapters.RESOLVED_CONFIG).read_bytes()
    add_experiment(towns, tiny_base, name, max_steps=2, prompt=prompt)
    with pytest.raises(DataError, match=refused):
        train(towns, name)
    assert (folder / adapters.RESOLVED_CONFIG).read_bytes() == before
    make_prompts(towns.project, "towns", name, [].append)
    assert not [line for line in train(towns, name)[1] if line.startswith("already")]


def other_base(base: Path, folder: Path) -> Path:
    """The base with one weight changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_prompts_made_with_another_base_are_refused(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, tmp_path: Path
) -> None:
    name = experiment(max_steps=2)
    add_experiment(towns, other_base(tiny_base, tmp_path / "other"), name, max_steps=2)
    with pytest.raises(DataError, match=rf"other settings \(base_model was \w{{16}}, is \w{{16}}\).*towns/{name}"):
        train(towns, name)
    make_prompts(towns.project, "towns", name, [].append)
    assert train(towns, name)[0]["steps"] == 2


@pytest.mark.parametrize(
    ("changes", "kind", "refusal"),
    [
        ({"max_position_embeddings": 100}, ConfigError, "126 tokens and the base model's context 100; use prompt.max"),
        ({"model_type": "mistral", "sliding_window": 64}, ModelError, "sets sliding_window=64"),
    ],
)
def test_a_base_that_could_not_be_asked_is_not_trained(
    towns: ProjectFiles,
    tiny_base: Path,
    tmp_path: Path,
    changes: dict[str, Any],
    kind: type[T2SError],
    refusal: str,
) -> None:
    base = Path(shutil.copytree(tiny_base, tmp_path / "base"))
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"architectures": None} | changes))
    add_experiment(towns, base, "unasked")
    make_prompts(towns.project, "towns", "unasked", [].append)
    with pytest.raises(kind, match=refusal):
        train(towns, "unasked")
    assert not checkpoints(towns, "unasked")


def test_prompts_that_do_not_say_with_which_base_are_trained_on(
    towns: ProjectFiles, tiny_base: Path, experiment: Make
) -> None:
    """As versions before this one left them."""
    name = experiment(max_steps=2)
    manifest = towns.project.path("towns", "prompts", name) / "manifest.json"
    content = json.loads(manifest.read_text())
    del content["base_identity"]
    manifest.write_text(json.dumps(content))
    assert train(towns, name)[0]["steps"] == 2
    add_experiment(towns, tiny_base, name, max_steps=2, prompt={"max_length": 300})
    with pytest.raises(DataError, match=r"prompt\.max_length was 512, is 300"):
        train(towns, name)


# --------------------------------------------------------------------------------------------------------- budget


def test_a_budget_plans_its_steps_and_goes_on_from_a_checkpoints_plan(towns: ProjectFiles, experiment: Make) -> None:
    name = experiment(max_steps=None, budget_minutes=0.15)
    lines = break_off(towns, name, 4)
    assert [line for line in lines if line.startswith("planned from")]
    plan = json.loads((checkpoints(towns, name)[2] / "plan.json").read_text())
    assert plan["max_steps"] >= 4 and plan["seconds_a_step"] > 0 and plan["seconds"] > 0
    assert len(plan["rates"]) == 3
    manifest, lines = train(towns, name)
    assert not [line for line in lines if line.startswith("planned from")]
    assert "going on from checkpoint-2" in lines
    assert manifest["planned_steps"] == plan["first_steps"]
    schedule = read_json(towns.project.path("towns", "adapter", name) / "schedule.json", made_by="")
    assert schedule["rates"][:3] == plan["rates"]
    assert len(schedule["rates"]) == schedule["steps"] == manifest["steps"]


# ----------------------------------------------------------------------------------------------- what settings do


def test_accumulation_and_batch_size_trade_one_for_one(towns: ProjectFiles, experiment: Make) -> None:
    plain = {"group_by_length": False}
    whole, _ = train(towns, experiment(batch_size=4, **plain))
    parts, _ = train(towns, experiment(batch_size=2, gradient_accumulation=2, **plain))
    saving, _ = train(towns, experiment(batch_size=4, gradient_checkpointing=True, **plain))
    assert parts["examples_seen"] == whole["examples_seen"] == 16
    assert parts["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-3)
    assert saving["train_loss"] == pytest.approx(whole["train_loss"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("c++"), reason="torch.compile needs a compiler")
def test_a_compiled_model_learns_the_same(towns: ProjectFiles, experiment: Make) -> None:
    from torch._dynamo.utils import counters

    settings = {"batch_size": 4, "group_by_length": False, "gradient_checkpointing": True}
    plain, _ = train(towns, experiment(**settings))
    counters.clear()
    name = experiment(**{**settings, "gradient_checkpointing": False}, compile=True)
    compiled, _ = train(towns, name)
    # First and later layers, and those of evaluations, however long batches are; each with a mask and without.
    assert 3 <= counters["stats"]["unique_graphs"] <= 6
    assert not counters["graph_break"]
    assert compiled["train_loss"] == pytest.approx(plain["train_loss"], rel=1e-4)
    adapter = find_adapter(f"towns/{name}", towns.project)
    adapters.load_tuned(adapter, towns.project, base_models.place(adapter.experiment.hardware))


@pytest.mark.parametrize(
    ("epochs", "batches", "steps", "seen"),
    [
        (0.01, {"batch_size": 4}, 1, 4),
        (0.6, {"batch_size": 4}, 3, 12),
        (3, {"batch_size": 16}, 6, 54),  # of 16 and 2 examples in turns
        (2, {"batch_size": 4, "gradient_accumulation": 4}, 4, 36),  # of 16 and 2, too
        (5, {"batch_size": 64}, 5, 90),
    ],
)
def test_epochs_are_turned_into_steps(
    towns: ProjectFiles, experiment: Make, epochs: float, batches: dict[str, int], steps: int, seen: int
) -> None:
    name = experiment(max_steps=None, epochs=epochs, **batches)
    manifest, _ = train(towns, name)
    assert (manifest["steps"], manifest["examples_seen"]) == (steps, seen)
    assert manifest["epochs"] == round(seen / 18, 3)
    history = read_json(towns.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")["log_history"]
    if epochs >= 1:
        assert history[-1]["epoch"] == epochs  # as transformers counts them


def test_the_best_checkpoint_becomes_the_adapter(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a run that ends worse than it was before, the loss told must be the loss of the adapter kept."""
    # From the middle on the steps go up the slope.
    monkeypatch.setattr(
        "t2s_assets.text2sql.training.trainer.warm_then_cosine", lambda step, *_: 1.0 if step < 4 else -1.0
    )
    settings = {"max_steps": 8, "learning_rate": 0.05, "eval_examples": 6, "batch_size": 6}
    name = experiment(best="loss", **settings)
    told = train(towns, name)[0]["validation_loss"]
    history = read_json(towns.project.path("towns", "adapter", name) / "trainer_state.json", made_by="")
    losses = [h["eval_loss"] for h in history["log_history"] if "eval_loss" in h]
    assert losses[-1] > 1.01 * min(losses)
    assert told == round(min(losses), 5)
    assert validation_loss(towns, name) == pytest.approx(told, rel=1e-3)
    name = experiment(best="last", **settings)
    told = train(towns, name)[0]["validation_loss"]
    assert told == round(losses[-1], 5)
    assert validation_loss(towns, name) == pytest.approx(told, rel=1e-3)


def validation_loss(files: ProjectFiles, name: str) -> float:
    """Mean negative log-likelihood of a completion token over all validation questions, from the saved adapter."""
    import torch

    from t2s_assets.text2sql.plain_text import encode
    from t2s_assets.text2sql.prompt_datasets import load_prompts
    from t2s_assets.text2sql.prompts import encode_example

    adapter = adapters.open_adapter(files.project.path("towns", "adapter", name), made_by="")
    model, tokenizer = adapters.load_tuned(adapter, files.project, base_models.place(adapter.experiment.hardware))
    total, count = 0.0, 0
    for row in load_prompts(files.project, "towns", name)["validation"]:
        prompt, completion = encode(tokenizer, [row["prompt"], row["completion"]])
        example = encode_example(prompt, completion, tokenizer.eos_token_id)
        with torch.inference_mode():
            logits = model(torch.tensor([example["input_ids"]])).logits[0, :-1]
        labels = torch.tensor(example["labels"][1:])
        total += torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").item()
        count += int((labels != -100).sum())
    return total / count


@pytest.mark.slow  # test_ranks.py holds the same against one process' accumulated batches, by default
def test_two_ranks_train_like_one_with_their_joint_batch(towns: ProjectFiles, experiment: Make) -> None:
    # Four validation questions: one batch for both, so that both weigh its tokens alike.
    plain = {"group_by_length": False, "eval_examples": 4, "learning_rate": 0.01}
    one, _ = train(towns, experiment(batch_size=4, **plain))
    two = training.run(towns.project, "towns", experiment(batch_size=2, processes=2, **plain))
    assert two["world_size"] == 2
    assert two["examples_seen"] == one["examples_seen"] == 16
    assert two["validation_loss"] == pytest.approx(one["validation_loss"], rel=1e-3)


@pytest.mark.slow
def test_two_ranks_agree_on_a_clocks_decisions(towns: ProjectFiles, experiment: Make) -> None:
    """On steps, rates and the end: each rank has a clock of its own, and by itself would decide otherwise; ranks
    that do not agree wait for each other until the launcher gives up."""
    name = experiment(max_steps=None, budget_minutes=0.1, batch_size=2, processes=2, eval_steps=50, save_steps=50)
    manifest = training.run(towns.project, "towns", name)
    assert manifest["world_size"] == 2
    schedule = read_json(towns.project.path("towns", "adapter", name) / "schedule.json", made_by="")
    assert len(schedule["rates"]) == schedule["steps"] == schedule["max_steps"] == manifest["steps"]
    assert math.isfinite(manifest["validation_loss"])


def test_nf4_trains_on_a_cpu_and_loads_again(towns: ProjectFiles, experiment: Make) -> None:
    import torch

    name = experiment(hardware={"device": "cpu", "dtype": "float32", "quantization": "nf4"}, max_steps=2)
    manifest, lines = train(towns, name)
    assert "nf4" in lines[0]
    slow = "training runs several times slower than it could on this CPU: hardware.quantization is nf4"
    assert lines.count(slow) == 1
    assert math.isfinite(manifest["train_loss"])
    folder = towns.project.path("towns", "adapter", name)
    adapter = adapters.open_adapter(folder, made_by="")
    placement = base_models.place(adapter.experiment.hardware)
    beside, _ = adapters.load_unmerged(adapter, towns.project, placement)
    assert {type(m).__name__ for m in beside.modules()} >= {"Linear4bit"}
    model, tokenizer = adapters.load_tuned(adapter, towns.project, placement)
    with torch.inference_mode():
        logits = model(torch.tensor([tokenizer("SELECT").input_ids])).logits
    assert bool(torch.isfinite(logits).all())


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.mark.parametrize("eval_steps", [2, 1000], ids=["seen at an evaluation", "seen at the end"])
def test_a_loss_that_is_no_number_leaves_the_old_adapter(
    towns: ProjectFiles, tiny_base: Path, experiment: Make, eval_steps: int
) -> None:
    name = experiment(max_steps=2)
    good, _ = train(towns, name)
    steps = {"eval_steps": eval_steps, "save_steps": eval_steps}
    add_experiment(towns, tiny_base, name, learning_rate=1e30, max_steps=4, **steps)
    with pytest.raises(T2SError, match=r"lower training\.learning_rate"):
        train(towns, name)
    folder = towns.project.path("towns", "adapter", name)
    assert read_json(folder / "manifest.json", made_by="") == good
    assert file_hash(folder / adapters.WEIGHTS, length=16) == good["data_version"]


def test_a_refusal_is_one_error_and_no_traceback(
    towns: ProjectFiles, experiment: Make, capfd: pytest.CaptureFixture[str]
) -> None:
    name = experiment(lora={"rank": 4, "alpha": 8, "targets": ["q_proj", "query_key_value"]})
    with pytest.raises(T2SError, match=r"^lora\.targets: \['query_key_value'\] are no linear layers of this base") as e:
        training.run(towns.project, "towns", name)
    assert "'q_proj'" in str(e.value) and "'up_proj'" in str(e.value)
    said = capfd.readouterr()
    assert "query_key_value" not in said.out + said.err  # the command line says it, once
    assert "Traceback" not in said.out + said.err
    assert not towns.project.path("towns", "adapter", name).exists()


def test_the_output_layer_takes_no_adapter(
    towns: ProjectFiles, experiment: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a base whose layers are not counted either; for the others it is refused from shapes."""
    name = experiment(lora={"targets": ["q_proj", "lm_head"]})
    for patched in (False, True):
        with monkeypatch.context() as patch, pytest.raises(ModelError, match=r"^lora\.targets: \['lm_head'\] are no"):
            if patched:
                patch.setattr(plan, "shape_in", lambda folder: None)
            train(towns, name)


def test_packing_is_refused_where_nothing_keeps_the_examples_apart(towns: ProjectFiles, tiny_base: Path) -> None:
    add_experiment(towns, tiny_base, "packed", packing=True)
    with pytest.raises(ConfigError, match=r"packing joins examples in one row.*got attention: auto"):
        train(towns, "packed")
    add_experiment(
        towns, tiny_base, "packed", packing=True, hardware={"device": "cpu", "attention": "flash_attention_2"}
    )
    make_prompts(towns.project, "towns", "packed", [].append)
    with pytest.raises(ModelError, match="flash_attention_2 needs CUDA"):
        train(towns, "packed")


def test_a_dataset_without_validation_questions_is_refused(project_files: ProjectFiles, tiny_base: Path) -> None:
    files = add_towns(project_files, tiny_base)
    files.dataset("towns", TOWNS | {"dev": ([], [])})
    prepare(files, "tiny")
    with pytest.raises(T2SError, match=r"the validation split has no examples.*give some questions split: validation"):
        train(files, "tiny")


def test_validation_questions_that_are_all_too_long_are_told_as_such(
    project_files: ProjectFiles, tiny_base: Path
) -> None:
    files = add_towns(project_files, tiny_base)
    tables, questions = TOWNS["dev"]
    longer = [t | {"header": [f"{name} {'of which it is known ' * 9}" for name in t["header"]]} for t in tables]
    files.dataset("towns", TOWNS | {"dev": (longer, questions)})
    add_experiment(files, tiny_base, "short", prompt={"max_length": 90})
    prepare(files, "short")
    with pytest.raises(PromptError, match=r"every validation example is longer than prompt.max_length = 90 tokens \("):
        train(files, "short")
