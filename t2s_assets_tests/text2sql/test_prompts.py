"""Prompts: one text for training and inference, and labels that say the gold SQL and then stop."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t2s_assets.text2sql import base_models
from t2s_assets.text2sql.config import PromptConfig
from t2s_assets.text2sql.errors import DataError, PromptError
from t2s_assets.text2sql.linking import recall
from t2s_assets.text2sql.plain_text import encode
from t2s_assets.text2sql.prepare import load_questions, load_sql, load_tables, make_questions, make_sql, make_tables
from t2s_assets.text2sql.prompt_datasets import (
    build_examples,
    data_versions,
    length_statistics,
    load_prompts,
    make_prompts,
    prompt_problems,
    prompts_manifest,
)
from t2s_assets.text2sql.prompts import (
    FORMAT_FILE,
    PromptFormat,
    clean_question,
    encode_example,
    render,
    resolve_format,
    sample_values,
    schema_text,
    shown_tables,
)
from t2s_assets.text2sql.query import from_sql, normal_form
from t2s_assets.text2sql.schema import Column, TableSchema, column_names
from t2s_assets_tests.own_data import add_library
from t2s_assets_tests.projects import SHOP, ProjectFiles, question, table
from t2s_assets_tests.tiny import tiny_tokenizer

SCHEMA = TableSchema("t", (Column("Name", "text"), Column('The "best" year', "real")))
ROWS = [("K2", "1954"), ("  K2 ", ""), ("Lhotse\n(main)", "1956"), ("x" * 90, None), ("Makalu", "1955")]


def silent(line: str) -> None:
    """Progress that nobody wants to see."""


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> Any:
    return base_models.tokenizer_from(tiny_base)


def prepared(files: ProjectFiles, content: Any = SHOP) -> ProjectFiles:
    files.dataset("shop", content)
    for make in (make_tables, make_questions, make_sql):
        make(files.project, "shop", silent)
    return files


def with_format(files: ProjectFiles, base: Path, **prompt: Any) -> dict[str, Any]:
    """Make the prompts of an experiment with these prompt settings. Returns the facts."""
    files.experiment("shop", "tiny", base=base, prompt={"max_length": 512} | prompt)
    return make_prompts(files.project, "shop", "tiny", silent)


# ------------------------------------------------------------------------------------------------------ templates


def test_the_plain_template(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(), tokenizer)
    assert render(format, tokenizer, SCHEMA, "  which\nyear was K2? ") == (
        't("Name" text, "The ""best"" year" real)\nQuestion: which year was K2?\nSQL:\n'
    )


def test_the_chat_template_is_the_models_own(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(template="chat"), tokenizer)
    assert render(format, tokenizer, SCHEMA, "which?") == (
        '<|start|>user\nt("Name" text, "The ""best"" year" real)\nQuestion: which?\nSQL:<|end|>\n<|start|>assistant\n'
    )


def test_the_samples_template_shows_distinct_values(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(template="samples", sample_values=3), tokenizer)
    assert render(format, tokenizer, SCHEMA, "which?", rows=ROWS) == (
        f't("Name" text [K2; Lhotse (main); {"x" * 40}], "The ""best"" year" real [1954; 1956; 1955])\n'
        "Question: which?\nSQL:\n"
    )
    assert render(format, tokenizer, SCHEMA, "which?", rows=[]).startswith('t("Name" text, "The')


def test_only_samples_read_the_table(tokenizer: Any) -> None:
    for template in ("plain", "chat"):
        format = resolve_format(PromptConfig(template=template), tokenizer)
        assert render(format, tokenizer, SCHEMA, "x?", rows=ROWS) == render(format, tokenizer, SCHEMA, "x?")
        assert not format.uses_table_content
    assert resolve_format(PromptConfig(template="samples"), tokenizer).uses_table_content


def test_a_first_token_is_put_where_the_tokenizer_wants_one() -> None:
    from tokenizers import processors

    tokenizer = tiny_tokenizer(special=("<s>",), bos_token="<s>")
    assert resolve_format(PromptConfig(), tokenizer).bos == ""
    begin = ("<s>", tokenizer.convert_tokens_to_ids("<s>"))
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[begin])
    format = resolve_format(PromptConfig(), tokenizer)
    prompt = render(format, tokenizer, SCHEMA, "which?")
    assert prompt.startswith("<s>t(")
    assert encode(tokenizer, [prompt]) == [tokenizer(prompt.removeprefix("<s>")).input_ids]


# --------------------------------------------------------------------------------------------------- what is wrong


def test_an_empty_question(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(), tokenizer)
    for text in ("", "  \n\t", "\0"):
        with pytest.raises(PromptError, match="the question is empty"):
            render(format, tokenizer, SCHEMA, text)


def test_a_schema_without_columns(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(), tokenizer)
    with pytest.raises(PromptError, match="table 'empty' has no columns"):
        render(format, tokenizer, TableSchema("empty", ()), "which?")


def test_samples_need_rows(tokenizer: Any) -> None:
    format = resolve_format(PromptConfig(template="samples"), tokenizer)
    with pytest.raises(PromptError, match="needs the table's rows"):
        render(format, tokenizer, SCHEMA, "which?")


def test_chat_needs_a_template() -> None:
    with pytest.raises(PromptError, match="needs a base model with a chat template"):
        resolve_format(PromptConfig(template="chat"), tiny_tokenizer())


# --------------------------------------------------------------------------------------- saved beside the adapter


@pytest.mark.parametrize(
    "config", [{}, {"template": "chat", "max_length": 99}, {"template": "samples", "sample_values": 5}]
)
def test_a_format_is_read_back_equal(tmp_path: Path, tokenizer: Any, config: dict[str, Any]) -> None:
    format = resolve_format(PromptConfig(**config), tokenizer)
    format.save(tmp_path)
    again = PromptFormat.load(tmp_path)
    assert again == format
    assert render(again, tokenizer, SCHEMA, "which?", rows=ROWS) == render(
        format, tokenizer, SCHEMA, "which?", rows=ROWS
    )


@pytest.mark.parametrize(
    "content", [{}, [], {"template": "fancy"}, {"template": "plain", "version": 2}, {"template": "plain", "x": 1}]
)
def test_a_format_of_another_version_is_refused(tmp_path: Path, content: Any) -> None:
    (tmp_path / FORMAT_FILE).write_text(json.dumps(content))
    with pytest.raises(DataError, match="is no prompt format that this version reads"):
        PromptFormat.load(tmp_path)


def test_a_missing_format_says_what_writes_it(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="make it with: t2s train"):
        PromptFormat.load(tmp_path)


@pytest.mark.parametrize("template", ["plain", "chat", "samples"])
def test_training_and_inference_see_the_same_text(
    project_files: ProjectFiles, tiny_base: Path, tokenizer: Any, template: str
) -> None:
    """What was written for training is what the format saved beside the adapter renders for a user's question."""
    project = prepared(project_files).project
    with_format(project_files, tiny_base, template=template)
    saved = PromptFormat.load(project.path("shop", "prompts", "tiny"))
    tables = load_tables(project, "shop")
    asked = {q.id: q for q in load_questions(project, "shop")}
    data = load_prompts(project, "shop", "tiny")
    rows = [row for split in data.values() for row in split.to_list()]
    assert len(rows) == 13
    for row in rows:
        of = tables[row["table_id"]]
        assert row["prompt"] == render(
            saved, tokenizer, of.schema_as("t"), asked[row["id"]].text, rows=None if template != "samples" else of.rows
        )


# ---------------------------------------------------------------------------------------------------------- labels


@pytest.mark.parametrize("template", ["plain", "chat", "samples"])
def test_labels_are_the_gold_sql_and_then_eos(
    project_files: ProjectFiles, tiny_base: Path, tokenizer: Any, template: str
) -> None:
    project = prepared(project_files).project
    format = resolve_format(PromptConfig(template=template), tokenizer)
    tables = load_tables(project, "shop")
    asked = {q.id: q for q in load_questions(project, "shop")}
    for split in ("train", "validation", "test"):
        for example in build_examples(format, tokenizer, project, "shop", split):
            prompt, completion = encode(tokenizer, [example.prompt, example.completion])
            built = encode_example(prompt, completion, tokenizer.eos_token_id)
            ids, labels = built["input_ids"], built["labels"]
            assert len(ids) == len(labels)
            learnt = [i for i in labels if i != -100]
            assert labels == [-100] * len(prompt) + learnt
            assert learnt[-1] == tokenizer.eos_token_id
            assert tokenizer.eos_token_id not in learnt[:-1]
            assert tokenizer.decode(ids) == example.prompt + example.completion + tokenizer.eos_token
            schema = tables[example.table_id].schema_as("t")
            written = from_sql(tokenizer.decode(learnt[:-1]), schema)
            assert normal_form(written, schema) == normal_form(asked[example.id].query, schema)


def test_values_are_cased_as_in_the_question(project_files: ProjectFiles, tokenizer: Any) -> None:
    project = prepared(project_files).project
    format = resolve_format(PromptConfig(), tokenizer)
    completions = [e.completion for e in build_examples(format, tokenizer, project, "shop", "train")]
    assert (
        completions[0] == 'SELECT "Name" FROM t WHERE "column 4" = \'o\'\'hara\' AND "The ""best"" season" = \'AUTUMN\''
    )


SAID_IN_OTHER_WORDS = {
    "train": [("In welchem Land wohnt Tove Jansson?", "SELECT country FROM authors WHERE name = 'Tove Jansson'")],
    "validation": [("Wie teuer?", "SELECT price FROM books WHERE lent"), ("Wer?", "SELECT COUNT(*) FROM loans")],
}


def test_prompts_over_long_schemas_show_what_is_to_be_learnt(project_files: ProjectFiles, tokenizer: Any) -> None:
    splits = [
        {"question": q, "sql": sql, "split": s} for s in ("train", "validation") for q, sql in SAID_IN_OTHER_WORDS[s]
    ]
    project = add_library(project_files, splits).project
    for make in (make_tables, make_questions, make_sql):
        make(project, "library", silent)
    (about,) = load_tables(project, "library").values()
    asked = load_questions(project, "library")
    for length in (150, 4_000):
        format = resolve_format(PromptConfig(max_length=length), tokenizer, "sql")
        for split in ("train", "validation"):
            for q, example in zip(
                [q for q in asked if q.split == split], build_examples(format, tokenizer, project, "library", split)
            ):
                prompt, shown = shown_tables(format, tokenizer, about.schemas, q.text)
                linked = length == 150
                assert example.linked == linked
                assert example.recall == (recall(shown, q.columns(about)) if linked else None)
                assert (example.prompt == prompt) == (split == "validation" or not linked)
                if split == "train":
                    assert all(f'"{column}"' in example.prompt for _, column in q.columns(about))
                    assert not linked or example.recall == 0
                    assert not linked or len(encode(tokenizer, [example.prompt])[0]) <= 0.75 * length


NAMES = st.lists(st.text(st.characters(blacklist_categories=["Cs"]), max_size=12), min_size=1, max_size=5)


@given(NAMES, st.text(st.characters(blacklist_categories=["Cs"]), min_size=1, max_size=40))
@settings(deadline=None, max_examples=50)
def test_any_schema_and_question_make_one_clean_prompt(names: list[str], text: str) -> None:
    tokenizer = tiny_tokenizer_once()
    schema = TableSchema("t", tuple(Column(n, "text") for n in column_names(names)))
    format = resolve_format(PromptConfig(), tokenizer)
    if not "".join(text.replace("\0", "").split()):
        with pytest.raises(PromptError):
            render(format, tokenizer, schema, text)
        return
    prompt = render(format, tokenizer, schema, text)
    assert prompt.count("\n") == 3
    assert prompt.startswith(schema_text(schema))
    assert "\0" not in prompt
    (ids,) = encode(tokenizer, [prompt])
    assert tokenizer.decode(ids) == prompt


_tokenizers: list[Any] = []


def tiny_tokenizer_once() -> Any:
    if not _tokenizers:
        _tokenizers.append(tiny_tokenizer())
    return _tokenizers[0]


# ------------------------------------------------------------------------------------------------------- the asset


def test_facts_and_rows(project_files: ProjectFiles, tiny_base: Path, tokenizer: Any) -> None:
    project = prepared(project_files).project
    facts = with_format(project_files, tiny_base)
    assert facts["examples"] == {"train": 8, "validation": 2, "test": 3}
    assert facts["over_max_length"] == {"train": 0, "validation": 0, "test": 0}
    assert (facts["template"], facts["uses_table_content"]) == ("plain", False)
    data = load_prompts(project, "shop", "tiny")
    assert data["test"].column_names == ["id", "table_id", "prompt", "completion", "prompt_tokens", "completion_tokens"]
    for split, rows in data.items():
        lengths = []
        for row in rows:
            prompt, completion = encode(tokenizer, [row["prompt"], row["completion"]])
            assert (row["prompt_tokens"], row["completion_tokens"]) == (len(prompt), len(completion) + 1)
            lengths.append(len(prompt) + len(completion) + 1)
        assert facts["tokens"][split] == length_statistics(lengths)
    assert prompt_problems(data, tokenizer) == {}
    # Gold that does not run is still a question.
    assert load_sql(project, "shop")["train-7"]["status"] == "error"
    assert "train-7" in data["train"]["id"]


def test_long_examples_are_counted_and_kept_out_of_training_only(project_files: ProjectFiles, tiny_base: Path) -> None:
    prepared(project_files)
    lengths = with_format(project_files, tiny_base)["tokens"]
    limit = max(lengths["train"]["p50"], lengths["test"]["p50"], lengths["validation"]["p50"])
    facts = with_format(project_files, tiny_base, max_length=int(limit))
    over = facts["over_max_length"]
    assert 0 < over["train"] < 8
    assert facts["examples"] == {"train": 8 - over["train"], "validation": 2, "test": 3}
    assert len(facts["over_max_length_ids"]["train"]) == over["train"]
    data = load_prompts(project_files.project, "shop", "tiny")
    assert not set(facts["over_max_length_ids"]["train"]) & set(data["train"]["id"])
    assert all(r["prompt_tokens"] + r["completion_tokens"] <= limit for r in data["train"])
    # Training is told of what is trained on, the other splits of all that is asked.
    trained = [r["prompt_tokens"] + r["completion_tokens"] for r in data["train"]]
    assert facts["tokens"] == lengths | {"train": length_statistics(trained)}
    assert facts["tokens"]["train"]["max"] <= limit < lengths["train"]["max"]


def test_a_limit_that_leaves_nothing_is_an_error_and_keeps_what_was(
    project_files: ProjectFiles, tiny_base: Path
) -> None:
    prepared(project_files)
    before = with_format(project_files, tiny_base)
    with pytest.raises(
        PromptError, match=r"every train example is longer than prompt.max_length = 16 tokens.*raise it"
    ):
        with_format(project_files, tiny_base, max_length=16)
    folder = project_files.project.path("shop", "prompts", "tiny")
    assert json.loads((folder / "manifest.json").read_text()) == before


def test_versions_follow_content_and_format(project_files: ProjectFiles, tiny_base: Path) -> None:
    prepared(project_files)
    plain = with_format(project_files, tiny_base)["data_version"]
    assert with_format(project_files, tiny_base)["data_version"] == plain
    assert with_format(project_files, tiny_base, max_length=511)["data_version"] != plain
    assert with_format(project_files, tiny_base, template="chat")["data_version"] != plain


def test_a_split_without_questions_is_an_empty_set(project_files: ProjectFiles, tiny_base: Path) -> None:
    content = {"train": ([table("a", ["x"], "t", [["1"]])], [question("a", "x?", 0)])}
    prepared(project_files, content)
    facts = with_format(project_files, tiny_base)
    assert facts["examples"] == {"train": 1, "validation": 0, "test": 0}
    assert facts["tokens"]["test"] == {}
    assert load_prompts(project_files.project, "shop", "tiny")["test"].num_rows == 0


def test_without_training_questions_there_is_nothing_to_prepare(project_files: ProjectFiles, tiny_base: Path) -> None:
    prepared(project_files, {"test": SHOP["test"]})
    with pytest.raises(DataError, match="shop: no training question; give some split: train"):
        with_format(project_files, tiny_base)


def test_prompts_of_other_data_are_refused(project_files: ProjectFiles, tiny_base: Path) -> None:
    """The dataset is prepared again without the experiment, and the same ids are other questions now."""
    project = prepared(project_files).project
    before = with_format(project_files, tiny_base)
    assert prompts_manifest(project, "shop", "tiny") == before
    tables, questions = SHOP["test"]
    prepared(project_files, {**SHOP, "test": (tables, questions[1:])})
    for read in (prompts_manifest, load_prompts):
        with pytest.raises(
            DataError,
            match=r"tiny: its prompts are of other data \(tables was .*sql was .*t2s prepare shop/tiny",
        ):
            read(project, "shop", "tiny")
    assert with_format(project_files, tiny_base)["made_of"] == data_versions(project, "shop") != before["made_of"]
    assert load_prompts(project, "shop", "tiny")["test"].num_rows == 2


def test_prompts_that_do_not_say_of_which_data_are_refused_and_keep_their_version(
    project_files: ProjectFiles, tiny_base: Path
) -> None:
    project = prepared(project_files).project
    facts = with_format(project_files, tiny_base)
    path = project.path("shop", "prompts", "tiny") / "manifest.json"
    path.write_text(json.dumps({n: f for n, f in facts.items() if n != "made_of"}))
    with pytest.raises(DataError, match=r"tables was not recorded.*t2s prepare shop/tiny"):
        load_prompts(project, "shop", "tiny")
    # Made of the same data again they are the same prompts, so that an adapter trained on them goes on.
    assert with_format(project_files, tiny_base) == facts


def test_data_that_change_while_prompts_are_made_are_other_data(
    project_files: ProjectFiles, tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = prepared(project_files).project
    fetch = base_models.fetch

    def meanwhile(*args: Any, **options: Any) -> Any:
        tables, questions = SHOP["test"]
        prepared(project_files, {**SHOP, "test": (tables, questions[1:])})
        return fetch(*args, **options)

    monkeypatch.setattr(base_models, "fetch", meanwhile)
    with_format(project_files, tiny_base)
    with pytest.raises(DataError, match="its prompts are of other data"):
        load_prompts(project, "shop", "tiny")


def test_prompts_that_are_not_there_say_how_to_make_them(shop: ProjectFiles) -> None:
    with pytest.raises(DataError, match="make it with: t2s prepare shop/tiny"):
        load_prompts(shop.project, "shop", "tiny")
    with pytest.raises(DataError, match="make it with: t2s prepare shop"):
        make_prompts(shop.project, "shop", "tiny", silent)


@pytest.mark.parametrize("file", ["dataset_dict.json", "train/state.json", "train/data-00000-of-00001.arrow"])
def test_prompts_that_are_cut_off_say_how_to_make_them_again(shop: ProjectFiles, tiny_base: Path, file: str) -> None:
    with_format(prepared(shop), tiny_base)
    broken = shop.project.path("shop", "prompts", "tiny") / "dataset" / file
    broken.write_bytes(broken.read_bytes()[: broken.stat().st_size // 2])
    with pytest.raises(DataError, match=r"dataset cannot be read .*make it again with: t2s prepare shop/tiny"):
        load_prompts(shop.project, "shop", "tiny")


def test_spoilt_examples_are_found(tokenizer: Any) -> None:
    rows = [
        {"prompt": "p", "completion": "SELECT 1"},
        {"prompt": " ", "completion": "SELECT 1"},
        {"prompt": "p", "completion": "\n"},
        {"prompt": "p", "completion": f"SELECT '{tokenizer.eos_token}'"},
    ]
    assert prompt_problems({"train": rows}, tokenizer) == {
        "empty completion": 1,
        "empty prompt": 1,
        "EOS inside the completion": 1,
    }


# ---------------------------------------------------------------------------------------------------- small parts


def test_sample_values_are_short_distinct_and_in_order() -> None:
    assert sample_values([("b", 1), ("a", None), ("b", 1), ("", 2.5)], 2, 2) == [["b", "a"], ["1", "2.5"]]
    assert sample_values([], 2, 3) == [[], []]


def test_length_statistics() -> None:
    assert length_statistics([]) == {}
    assert length_statistics(list(range(1, 101))) == {"mean": 50.5, "p50": 50, "p95": 95, "p99": 99, "max": 100}
    assert length_statistics([3, 1]) == {"mean": 2.0, "p50": 1, "p95": 3, "p99": 3, "max": 3}


@pytest.mark.parametrize("question", [None, 5, b"how?"])
def test_a_question_is_text(question: object) -> None:
    with pytest.raises(PromptError, match=f"the question: text is wanted; got {type(question).__name__}"):
        clean_question(question)  # type: ignore[arg-type]


def test_lengths_are_told_in_words(shop: ProjectFiles, tiny_base: Path) -> None:
    prepared(shop)
    shop.experiment("shop", "tiny", base=tiny_base, prompt={"max_length": 512})
    told: list[str] = []
    facts = make_prompts(shop.project, "shop", "tiny", told.append)
    for split, tokens in facts["tokens"].items():
        (line,) = [t for t in told if t.startswith(f"{split}: ")]
        assert ("of tokens mean " in line) == bool(tokens) and "{" not in line and line.endswith("; 0 over max_length")
        assert not tokens or f"mean {tokens['mean']}, p50 {tokens['p50']}" in line
