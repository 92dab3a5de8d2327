"""An exported model as others take it: the same answers, nothing of this machine, a card that tells the truth."""

from __future__ import annotations

import ast
import io
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import duckdb
import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from t2s_assets.text2sql import adapters, base_models, evaluation, parity
from t2s_assets.text2sql.base_models import Placement
from t2s_assets.text2sql.config import HubModel
from t2s_assets.text2sql.decoding import Decoder, DecodingOptions
from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError, StorageError
from t2s_assets.text2sql.export.card_snippet import BASE_VARIABLE, example, snippet
from t2s_assets.text2sql.export.folder import Exported, export
from t2s_assets.text2sql.inference import Text2SQL
from t2s_assets.text2sql.prompts import PromptFormat, render_tables
from t2s_assets.text2sql.reports.report import make_report
from t2s_assets.text2sql.storage import Project, read_json, read_manifest, write_json
from t2s_assets.text2sql.training.reproduce import reproduce
from t2s_assets_tests.own_data import EXPERIMENT, add_library
from t2s_assets_tests.projects import ProjectFiles
from t2s_assets_tests.serving import ONE_EACH, save_adapter
from t2s_assets_tests.tiny import random_requests
from t2s_assets_tests.trainable import add_towns, trained_towns

CPU = Placement("cpu", "float32", "sdpa", "none")
REQUESTS = random_requests(6, tables=4, seed=3)
PROBE = [{"prompt": r.prompt, "completion": 'SELECT "Year" FROM t'} for r in REQUESTS]


@pytest.fixture
def towns(project_files: ProjectFiles, tiny_base: Path, tmp_path: Path) -> ProjectFiles:
    """`towns/tiny` with random LoRA weights and a probe, on a base that would sample and ends at two tokens."""
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    GenerationConfig(do_sample=True, temperature=2.0, repetition_penalty=1.5, eos_token_id=[0, 7]).save_pretrained(base)
    add_towns(project_files, base)
    write_json(save_adapter(project_files.project, "towns", "tiny") / parity.PROBE, PROBE)
    return project_files


@pytest.fixture(scope="module")
def reported(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> ProjectFiles:
    """`towns/tiny` as trained, evaluated and reported."""
    files = trained_towns(tmp_path_factory.mktemp("reported"), tiny_base)
    evaluation.run(files.project, "towns", "tiny", [].append)
    make_report(files.project, "towns", "tiny", [].append)
    return files


def exported(files: ProjectFiles, model: str = "towns/tiny", name: str = "out", **options: Any) -> Path:
    return export(files.project, model, files.root / name, log=[].append, **options).folder


def decoded(files: ProjectFiles) -> list[str]:
    """What t2s itself generates without a grammar, with the adapter beside its base."""
    adapter = adapters.open_adapter(files.project.path("towns", "adapter", "tiny"), made_by="")
    model, tokenizer = adapters.load_unmerged(adapter, files.project, CPU)
    tokens = adapter.experiment.decoding.max_new_tokens
    decoder = Decoder(model, tokenizer, DecodingOptions(grammar="none", max_new_tokens=tokens))
    return [c.text.strip() for c in decoder.generate(REQUESTS)]


def generated(model: Any, tokenizer: Any) -> list[str]:
    """What plain transformers generates, by the settings of the folder alone."""
    texts = []
    for request in REQUESTS:
        inputs = tokenizer(request.prompt, add_special_tokens=False, return_tensors="pt")
        written = model.generate(**inputs)[0, inputs.input_ids.shape[1] :]
        texts.append(tokenizer.decode(written, skip_special_tokens=True).strip())
    return texts


def code_of(folder: Path) -> str:
    found = re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert found is not None
    return found[1]


def run_code(folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[dict[str, Any], str]:
    """The names that the card's code leaves, and what it prints."""
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    with redirect_stdout(io.StringIO()) as out:
        exec(compile(code_of(folder), "README.md", "exec"), names)
    return names, out.getvalue()


def test_plain_transformers_says_the_same_with_merged_weights(towns: ProjectFiles) -> None:
    folder = exported(towns)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    said = generated(model, tokenizer)
    assert said == decoded(towns) and len(set(said)) > 3
    untrained = AutoModelForCausalLM.from_pretrained(towns.root / "base")
    untrained.generation_config = model.generation_config
    assert generated(untrained, tokenizer) != said
    settings = read_json(folder / "generation_config.json", made_by="")
    del settings["transformers_version"]
    assert settings == {"do_sample": False, "eos_token_id": [0, 7], "max_new_tokens": 24, "pad_token_id": 0}
    assert model.config.eos_token_id == [0, 7] and model.dtype == torch.float32
    assert not hasattr(model.config, "quantization_config")
    assert "rope_theta" in read_json(folder / "config.json", made_by="")
    assert read_json(folder / "tokenizer_config.json", made_by="")["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_peft_says_the_same_with_the_adapter_over_its_base(towns: ProjectFiles) -> None:
    folder = exported(towns, what="adapter")
    base = AutoModelForCausalLM.from_pretrained(towns.root / "base")
    base.generation_config = GenerationConfig.from_pretrained(folder)
    model, tokenizer = PeftModel.from_pretrained(base, folder), AutoTokenizer.from_pretrained(folder)
    assert generated(model, tokenizer) == decoded(towns)
    config = read_json(folder / "adapter_config.json", made_by="")
    assert config["base_model_name_or_path"] is None and config["revision"] is None
    assert config["target_modules"] == sorted(config["target_modules"])


@pytest.mark.parametrize("what", ["merged", "adapter"])
def test_nothing_of_this_machine_and_no_row_of_the_data_is_in_it_and_it_is_the_same_again(
    reported: ProjectFiles, what: Any
) -> None:
    first, second = (exported(reported, name=f"{what}-{n}", what=what) for n in (1, 2))
    names = sorted(p.name for p in first.iterdir())
    card, tokenizer = {"README.md", "manifest.json", "prompt_format.json"}, {"tokenizer.json", "tokenizer_config.json"}
    both = card | tokenizer | {"chat_template.jinja", "generation_config.json"}
    own = {"merged": {"config.json", "model.safetensors"}}
    own["adapter"] = {"adapter_config.json", "adapter_model.safetensors", "experiment.json"}
    assert set(names) == both | own[what]
    assert names == sorted(p.name for p in second.iterdir())
    for name in names:
        content = (first / name).read_bytes()
        assert content == (second / name).read_bytes(), name
        for private in (reported.root, Path(__file__).parents[2], "pytest", "Torun", "Soria", "machine", "/tmp"):
            assert str(private).encode() not in content, (name, private)


@pytest.mark.parametrize("what", ["merged", "adapter"])
def test_the_code_of_the_card_runs_as_it_stands(
    towns: ProjectFiles, what: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_VARIABLE, str(towns.root / "base"))
    names, printed = run_code(exported(towns, what=what), monkeypatch)
    assert [names["generate"](r.prompt) for r in REQUESTS] == decoded(towns)
    assert printed == names["over"]("mountains", names["sql"]) + "\n"
    assert names["sql"] == names["generate"](names["prompt_for"](names["tables"], "How high is K2?"))


def test_the_code_of_the_card_puts_the_tables_own_name_in(towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    names, _ = run_code(exported(towns), monkeypatch)
    with duckdb.connect() as db:
        db.execute('CREATE TABLE "my ""t"" x" ("a t b" TEXT, "Height" INT)')
        db.execute("""INSERT INTO "my ""t"" x" VALUES ('it''s t', 1), ('FROM t', 2)""")
        for sql, height in [
            ("""SELECT "Height" FROM t WHERE "a t b" = 'it''s t'""", 1),
            ("""SELECT t."Height" FROM t WHERE "a t b" = 'FROM t'""", 2),
        ]:
            assert db.execute(names["over"]('my "t" x', sql)).fetchall() == [(height,)]


@pytest.fixture
def formats(project_files: ProjectFiles, tiny_base: Path) -> Iterator[ProjectFiles]:
    """Adapters in every format of prompt: `peaks` on one table, `library` on named ones."""
    project_files.dataset("peaks", ONE_EACH)
    add_library(project_files)
    for template in ("plain", "chat", "samples"):
        prompt = {"template": template, "max_length": 512}
        project_files.experiment("peaks", template, base=tiny_base, prompt=prompt)
        project_files.experiment("library", template, base=tiny_base, **EXPERIMENT | {"prompt": prompt})
        for dataset in ("peaks", "library"):
            folder = save_adapter(project_files.project, dataset, template)
            write_json(folder / parity.PROBE, PROBE)
    yield project_files


@pytest.mark.parametrize("template", ["plain", "chat", "samples"])
@pytest.mark.parametrize("dataset", ["peaks", "library"])
def test_the_card_writes_the_prompt_as_t2s_does(
    formats: ProjectFiles, dataset: str, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if template == "plain":  # as of a base whose tokenizer wants a first token
        path = formats.project.path(dataset, "adapter", template) / "prompt_format.json"
        write_json(path, read_json(path, made_by="") | {"bos": "<|end|>"})
    if template == "chat":  # of a base whose template says the day
        path = formats.project.path(dataset, "adapter", template) / "chat_template.jinja"
        path.write_text("{{ strftime_now('%Y-%m-%d') }} " + path.read_text())
    folder = exported(formats, f"{dataset}/{template}")
    adapter = adapters.open_adapter(formats.project.path(dataset, "adapter", template), made_by="")
    asked, tokenizer = example(adapter.format), base_models.tokenizer_from(adapter.folder)
    wanted = render_tables(adapter.format, tokenizer, asked.schemas, asked.question, rows=asked.rows)
    card = (folder / "README.md").read_text()
    shown = re.search(r"```text\n(.*?)```", card, re.DOTALL)
    assert shown is not None and shown[1] == wanted
    names, _ = run_code(folder, monkeypatch)
    assert names["prompt_for"](names["tables"], asked.question) == wanted
    assert ("over" in names) == (dataset == "peaks")
    odd = {'"O""d"': [('a "b"', "text", ["x", "y"][: 2 * (template == "samples")])]}
    if template != "samples":
        odd = {table: [column[:2] for column in columns] for table, columns in odd.items()}
    assert names["prompt_for"](odd, "what?").partition(" text")[0].endswith('"O""d"("a ""b"""')
    assert "Question: what is it?\n" in names["prompt_for"](odd, "what \n is it?")


def test_the_card_tells_what_was_trained_and_measured(reported: ProjectFiles) -> None:
    folder = exported(reported)
    report = read_json(reported.project.path("towns", "report", "tiny") / "report.json", made_by="")
    card = ModelCard.load(folder / "README.md")
    assert card.data.to_dict() == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "tags": ["text-to-sql", "sql"],
    }
    version = read_manifest(reported.project.path("towns", "adapter", "tiny"), made_by="")["data_version"]
    assert card.text.count(version) == 2 and "# towns/tiny" in card.text
    ex = report["test"]["overall"]["ex"]
    assert f"| EX | {100 * ex['value']:.1f} % ({100 * ex['low']:.1f}-{100 * ex['high']:.1f}) |" in card.text
    assert "On all 6 questions of the test split of `towns`" in card.text
    assert "under a grammar" in card.text and "plain `generate` gives other figures" in card.text
    assert "18 training and 6 validation examples" in card.text and "8 examples, 0.444 epochs, 2 steps" in card.text
    assert "It ends at `<|end|>` (id 0), and was cut off at 24 tokens" in card.text
    assert "0 of " in card.text and "likeliest tokens differ" in card.text
    assert "name no licence" in card.text and "None" not in card.text
    tuned = read_manifest(folder, made_by="")
    assert (tuned["data_version"], tuned["exported"], tuned["dtype"]) == (version, "merged", "float32")


def test_figures_of_another_adapter_are_not_told(reported: ProjectFiles, tmp_path: Path) -> None:
    shutil.copytree(reported.root / "storage", tmp_path / "storage")
    project = Project(reported.project.configs, tmp_path / "storage")
    path = project.path("towns", "report", "tiny") / "report.json"
    write_json(path, read_json(path, made_by="") | {"adapter": "of-before"})
    done = export(project, "towns/tiny", tmp_path / "out", what="adapter", log=[].append)
    assert "## Measured" not in (done.folder / "README.md").read_text()


def test_a_record_of_decoding_that_is_none_is_refused(reported: ProjectFiles, tmp_path: Path) -> None:
    shutil.copytree(reported.root / "storage", tmp_path / "storage")
    project = Project(reported.project.configs, tmp_path / "storage")
    path = project.path("towns", "predictions", "tiny") / "manifest.json"
    write_json(path, read_json(path, made_by="") | {"decoding": {"grammar": "odd"}})
    with pytest.raises(ConfigError, match=rf"^{re.escape(str(path))}: 1 problem\n  grammar: .*got 'odd'"):
        export(project, "towns/tiny", tmp_path / "out", what="adapter", log=[].append)


def test_a_base_of_the_hub_is_named_with_its_revision(towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    (towns.root / "base" / "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    folder = towns.project.path("towns", "adapter", "tiny")
    resolved = read_json(folder / "experiment.json", made_by="")
    resolved["experiment"]["base_model"] = {"source": "hub", "repo": "some/base", "revision": "abc123"}
    write_json(folder / "experiment.json", resolved)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: str(towns.root / "base"))
    out = exported(towns, what="adapter")
    config = read_json(out / "adapter_config.json", made_by="")
    assert (config["base_model_name_or_path"], config["revision"]) == ("some/base", "abc123")
    card = ModelCard.load(out / "README.md")
    assert (card.data.base_model, card.data.library_name) == ("some/base", "peft")
    assert (card.data.base_model_relation, card.data.tags) == ("adapter", ["text-to-sql", "sql", "lora"])
    assert '"some/base", revision="abc123"' in code_of(out) and BASE_VARIABLE not in card.text
    assert "`mit`" in card.text and card.data.license is None
    assert ModelCard.load(exported(towns, name="whole") / "README.md").data.base_model_relation == "finetune"


def test_a_base_with_an_odd_name_is_python_too() -> None:
    """Git takes quotes in a tag."""
    source = HubModel(source="hub", repo="some/base", revision='the "first"')
    code = snippet(PromptFormat(), source, what="adapter", dtype="float32", nf4=False, shown=None)
    (loading,) = [
        call
        for call in ast.walk(ast.parse(code))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "AutoModelForCausalLM.from_pretrained"
    ]
    given = {keyword.arg: keyword.value for keyword in loading.keywords}
    assert ast.literal_eval(given["revision"]) == source.revision


@pytest.fixture
def rounding_is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights are wide, and rounding them changes more than it would of trained ones."""
    monkeypatch.setattr(parity, "MOST_CHANGED", 1.0)
    monkeypatch.setattr(parity, "MOST_LOSS", 1.0)


def test_another_number_format_is_rounded_once(towns: ProjectFiles, rounding_is_fine: None) -> None:
    full = load_file(exported(towns) / "model.safetensors")
    half = exported(towns, name="half", dtype="bfloat16")
    for name, weight in load_file(half / "model.safetensors").items():
        assert torch.equal(weight, full[name].to(torch.bfloat16)), name
    assert read_json(half / "config.json", made_by="")["dtype"] == "bfloat16"
    assert "| weights | bfloat16; the adapter is merged into the base in float32" in (half / "README.md").read_text()


@pytest.mark.parametrize("trained", ["float32", "bfloat16"])
def test_a_four_bit_base_is_merged_as_it_was_trained(towns: ProjectFiles, trained: str, rounding_is_fine: None) -> None:
    folder = towns.project.path("towns", "adapter", "tiny")
    placement = Placement("cpu", trained, "sdpa", "nf4")
    resolved = read_json(folder / "experiment.json", made_by="")
    write_json(folder / "experiment.json", resolved | {"placement": placement.as_dict()})
    adapter = adapters.open_adapter(folder, made_by="")
    wanted = adapters.load_tuned(adapter, towns.project, placement)[0].state_dict()
    out = exported(towns)
    weights = load_file(out / "model.safetensors")
    assert {w.dtype for w in weights.values()} == {getattr(torch, trained)}
    for name, weight in weights.items():
        assert torch.equal(weight, wanted[name]), name
    card = (out / "README.md").read_text()
    assert "4-bit NF4" in card and "not into the base's own" in card
    assert "quantization_config" not in read_json(out / "config.json", made_by="")
    wide = load_file(exported(towns, name="wide", dtype="float32") / "model.safetensors")
    assert {w.dtype for w in wide.values()} == {torch.float32}
    assert "load_in_4bit=True" in code_of(exported(towns, name="adapter", what="adapter"))


def test_a_merge_that_changes_answers_is_refused(towns: ProjectFiles) -> None:
    """Weights that are none in float16: what they add up to is more than it can hold."""
    base = towns.root / "base"
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        model.lm_head.weight *= 1e5
    model.save_pretrained(base)
    save_adapter(towns.project, "towns", "tiny")
    with pytest.raises(ModelError) as refused:
        exported(towns, dtype="float16")
    assert str(refused.value).startswith("towns/tiny: merged in float16 it does not answer as before: ")
    assert str(refused.value).endswith("use --dtype float32 (twice the size), or --what adapter")
    assert not (towns.root / "out").exists() and not list(towns.root.glob(".out*"))
    assert exported(towns).is_dir()


def test_no_other_format_is_advised_where_there_is_none(towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    said = parity.said

    def another(model: Any, *given: Any) -> parity.Said:
        found = said(model, *given)
        return found if isinstance(model, PeftModel) else parity.Said(found.tokens, found.loss + 1)

    monkeypatch.setattr(parity, "said", another)
    with pytest.raises(ModelError, match=r"apart\); use --what adapter$"):
        exported(towns)


def test_without_examples_to_compare_on_the_card_and_a_line_say_so(towns: ProjectFiles) -> None:
    (towns.project.path("towns", "adapter", "tiny") / parity.PROBE).unlink()
    lines: list[str] = []
    export(towns.project, "towns/tiny", towns.root / "out", log=lines.append)
    assert any("is not checked" in line for line in lines)
    assert "not compared with the adapter" in (towns.root / "out" / "README.md").read_text()


def test_weights_that_are_not_those_of_the_records_are_refused(towns: ProjectFiles) -> None:
    weights = towns.project.path("towns", "adapter", "tiny") / adapters.WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-4] + b"\x00\x00\x80\x3f")
    with pytest.raises(ModelError, match="does not hold the weights that its manifest"):
        exported(towns)


def test_a_folder_that_holds_something_is_left_alone(
    towns: ProjectFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(place: Path, **options: Any) -> str:
        with pytest.raises(StorageError) as error:
            export(towns.project, "towns/tiny", place, what="adapter", log=[].append, **options)
        return str(error.value)

    place = tmp_path / "place"
    place.mkdir()
    (place / "mine.txt").write_text("mine")
    assert refused(place) == f"--to: {place} is not empty, it holds mine.txt; give a new folder, or --force"
    assert "--force does not replace it" in refused(place, force=True)
    assert (place / "mine.txt").read_text() == "mine"
    (place / "mine.txt").unlink()
    out = exported(towns, name="place", what="adapter")  # an empty one is fine
    assert "is not empty" in refused(place)
    (out / "sql.gguf").write_text("what llama.cpp made of it")
    assert "holds sql.gguf, which no export wrote, so --force does not replace it" in refused(place, force=True)
    (out / "sql.gguf").unlink()
    exported(towns, name="place", what="merged", force=True)
    assert not (place / adapters.WEIGHTS).exists()
    (place / ".git").mkdir()
    assert "--force does not replace it" in refused(place, force=True)
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    assert "inside" in refused(towns.project.path("towns", "adapter", "tiny"), force=True)
    monkeypatch.chdir(tmp_path / "place")
    assert "this command runs or reads in it" in refused(Path(), force=True)


def test_the_base_of_an_adapter_is_not_replaced(towns: ProjectFiles) -> None:
    """It may be what an earlier export wrote."""
    merged = exported(towns)
    add_towns(towns, merged)
    save_adapter(towns.project, "towns", "tiny")
    before = {p.name: p.stat().st_mtime_ns for p in merged.iterdir()}
    with pytest.raises(StorageError, match=r"^--to: .*/out holds the base model of towns/tiny; give a new folder$"):
        exported(towns, what="adapter", force=True)
    assert {p.name: p.stat().st_mtime_ns for p in merged.iterdir()} == before


def test_a_folder_that_cannot_be_written(towns: ProjectFiles, tmp_path: Path, small_files: None) -> None:
    with pytest.raises(StorageError, match=r"^--to: .*/out cannot be written \(.*\); make room, or give"):
        exported(towns)
    assert not list(tmp_path.glob("*out*"))
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/out cannot be written \(File exists: .*/file\)"):
        exported(towns, name="file/out", what="adapter")


def test_t2s_answers_with_an_exported_adapter(towns: ProjectFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    out, table = exported(towns, what="adapter"), "CREATE TABLE fruit (name TEXT, price REAL)"
    with pytest.raises(ConfigError, match=f"set the environment variable {BASE_VARIABLE}"):
        Text2SQL.load(out, project=towns.project)
    monkeypatch.setenv(BASE_VARIABLE, str(towns.root / "base"))
    answers = []
    for model in ("towns/tiny", out):
        with Text2SQL.load(model, project=towns.project) as loaded:
            answers.append(loaded.ask("which fruit is cheapest?", table).generated)
    assert answers[0] == answers[1]
    with pytest.raises(DataError, match="an exported adapter has no records of its training"):
        reproduce(towns.project, out, [].append)


def test_an_exported_adapter_is_merged_to_the_same_weights(
    reported: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(BASE_VARIABLE, str(tiny_base))
    out = exported(reported, name="alone", what="adapter")
    again, direct = exported(reported, str(out), name="again"), exported(reported, name="direct")
    for name in ("model.safetensors", "manifest.json", "config.json"):
        assert (again / name).read_bytes() == (direct / name).read_bytes(), name
    cards = [(folder / "README.md").read_text().splitlines() for folder in (again, direct)]
    merges = [[line for line in card if line.startswith("| the merge |")] for card in cards]
    assert [len(m) for m in merges] == [1, 1]  # an exported adapter has no probe, so others were asked
    assert set(cards[0]) - set(merges[0]) == set(cards[1]) - set(merges[1])


def test_t2s_does_not_answer_with_merged_weights(towns: ProjectFiles) -> None:
    with pytest.raises(ModelError, match="holds merged weights, which other programs load"):
        Text2SQL.load(exported(towns), project=towns.project)


def test_what_is_told_is_what_was_written(towns: ProjectFiles) -> None:
    done = export(towns.project, "towns/tiny", towns.root / "out", log=[].append)
    version = read_manifest(towns.project.path("towns", "adapter", "tiny"), made_by="")["data_version"]
    size = sum(p.stat().st_size for p in done.folder.iterdir()) / 1e6
    assert done == Exported((towns.root / "out").resolve(), "towns/tiny", version, "float32", size)
    assert json.loads((done.folder / "prompt_format.json").read_text())["gold"] == "sketch"
