"""Decoding: the answers are the model's own, whatever the batch, the cache and the guesses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import duckdb
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from t2s_assets.text2sql.decoding import Completion, Decoder, DecodingOptions, Request, grammar
from t2s_assets.text2sql.decoding.select_grammar import select_grammar
from t2s_assets.text2sql.errors import ModelError, PromptError
from t2s_assets.text2sql.prompts import PromptFormat, render
from t2s_assets.text2sql.query import from_sql
from t2s_assets.text2sql.schema import Column, TableSchema
from t2s_assets_tests.tiny import random_requests, request, tiny_model, tiny_tokenizer

FEW = 140
PLAIN = DecodingOptions(max_new_tokens=40, batch_size=1, prefix_cache_bytes=0, draft_tokens=0)


def answers(completions: list[Completion]) -> list[tuple[str, tuple[int, ...], bool, int, int]]:
    return [(c.text, c.token_ids, c.finished, c.n_tokens, c.n_forced) for c in completions]


@pytest.mark.parametrize("draft_tokens", [0, 6])
@pytest.mark.parametrize("batch_size", [1, 5])
def test_without_grammar_the_answers_are_those_of_generate(
    model: Any, tokenizer: Any, batch_size: int, draft_tokens: int
) -> None:
    options = DecodingOptions("none", max_new_tokens=24, batch_size=batch_size, draft_tokens=draft_tokens)
    requests = random_requests(12, tables=5, seed=3)
    completions = Decoder(model, tokenizer, options).generate(requests)
    for one, got in zip(requests, completions):
        ids = tokenizer(one.prompt, return_tensors="pt").input_ids
        whole = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=24, do_sample=False, pad_token_id=0
        )[0, ids.shape[1] :].tolist()
        assert list(got.token_ids) + [0] * (got.n_tokens - len(got.token_ids)) == whole
        assert got.finished == (whole[-1] == 0)


@pytest.fixture(scope="module")
def many() -> list[Request]:
    return random_requests(500, tables=150, seed=21)


@pytest.fixture(scope="module")
def alone(model: Any, tokenizer: Any, many: list[Request]) -> list[Completion]:
    """The answers to the first questions, asked one at a time and without any of the short cuts."""
    return Decoder(model, tokenizer, PLAIN).generate(many[:FEW])


@pytest.mark.parametrize("count", [FEW, pytest.param(500, marks=pytest.mark.slow)])
def test_a_batch_gives_the_answers_of_one_at_a_time(
    model: Any, tokenizer: Any, many: list[Request], alone: list[Completion], count: int
) -> None:
    together = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=40, batch_size=32)).generate(many[:count])
    alone = [*alone, *Decoder(model, tokenizer, PLAIN).generate(many[FEW:count])]
    assert answers(together) == answers(alone)
    assert [c.logprob for c in together] == pytest.approx([c.logprob for c in alone], abs=1e-3)


@pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(max_new_tokens=40, batch_size=7, token_budget=1500, prefix_cache_bytes=20_000),
        DecodingOptions(max_new_tokens=40, batch_size=4, draft_tokens=16),
        DecodingOptions(max_new_tokens=40, batch_size=1, draft_tokens=8),
    ],
    ids=["small caches", "guesses in a batch", "guesses alone"],
)
def test_short_cuts_do_not_change_the_answers(
    model: Any, tokenizer: Any, many: list[Request], alone: list[Completion], options: DecodingOptions
) -> None:
    assert answers(Decoder(model, tokenizer, options).generate(many[:80])) == answers(alone[:80])


def test_every_answer_under_the_grammar_is_a_query_on_its_table(model: Any, tokenizer: Any) -> None:
    requests = random_requests(60, tables=20, seed=11)
    for one, got in zip(requests, Decoder(model, tokenizer).generate(requests)):
        assert got.finished
        assert from_sql(got.text, one.schema)


def test_logprob_is_that_of_the_chosen_tokens_without_grammar(model: Any, tokenizer: Any) -> None:
    one = random_requests(1, tables=1, seed=5)[0]
    got = Decoder(model, tokenizer, DecodingOptions("none", max_new_tokens=12)).generate([one])[0]
    prompt = tokenizer(one.prompt).input_ids
    written = [*got.token_ids, *[0] * (got.n_tokens - len(got.token_ids))]
    with torch.inference_mode():
        scores = model(torch.tensor([prompt + written])).logits[0].log_softmax(-1)
    expected = sum(scores[len(prompt) - 1 + i, token].item() for i, token in enumerate(written))
    assert got.logprob == pytest.approx(expected, abs=1e-3)


def test_forced_tokens_cost_no_forward_pass(model: Any, tokenizer: Any) -> None:
    requests = random_requests(20, tables=10, seed=2)
    for got in Decoder(model, tokenizer, PLAIN).generate(requests):
        assert got.n_forced > 0
        assert got.forward_passes == got.n_tokens - got.n_forced


def test_right_guesses_save_forward_passes(model: Any, tokenizer: Any) -> None:
    requests = random_requests(20, tables=10, seed=2)
    plain = Decoder(model, tokenizer, PLAIN).generate(requests)
    guessed = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=40, batch_size=1, draft_tokens=8)).generate(
        requests
    )
    assert sum(c.forward_passes for c in guessed) < sum(c.forward_passes for c in plain)


@pytest.mark.parametrize("guesses", [0, 16])
def test_spaces_before_signs_stay_whatever_the_tokenizer_is_set_to(guesses: int) -> None:
    pieces = [*sorted(pre_tokenizers.ByteLevel.alphabet()), "SELECT", "MAX", "COUNT"]
    unigrams = Tokenizer(models.Unigram([("<|end|>", 0.0), *((piece, -1.0) for piece in pieces)], unk_id=0))
    unigrams.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    unigrams.decoder = decoders.ByteLevel()
    tidy = PreTrainedTokenizerFast(tokenizer_object=unigrams, eos_token="<|end|>", clean_up_tokenization_spaces=True)
    schema = TableSchema("t", (Column("a , b", "text"), Column("it 's", "text")))
    options = DecodingOptions(max_new_tokens=200, draft_tokens=guesses)
    (completion,) = Decoder(tiny_model(len(tidy)), tidy, options).generate([request(schema, "what is x , y ?")])
    assert completion.finished and from_sql(completion.text, schema)


def test_names_may_spell_special_tokens() -> None:
    """Where the grammar leaves one text, it is no special token, whatever the tokenizer makes of it."""
    spelling = tiny_tokenizer(special=("<|start|>",))
    names = ("<|start|>", "<|end|>")
    schema = TableSchema("t", tuple(Column(name, kind) for name, kind in zip(names, ("text", "real"))))
    question = "what is 5 <|start|> ?"
    prompt = render(PromptFormat(), spelling, schema, question)
    requests = [Request(prompt, question, schema, draw=draw) for draw in (None, *range(6))]
    model = tiny_model(len(spelling))
    greedy = set()
    for guesses in (0, 16):
        options = DecodingOptions(max_new_tokens=200, draft_tokens=guesses)
        completions = Decoder(model, spelling, options).generate(requests)
        greedy.add(completions[0].text)
        for completion in completions:
            assert completion.finished and from_sql(completion.text, schema)
            assert not set(spelling.convert_tokens_to_ids(names)) & set(completion.token_ids)
    assert len(greedy) == 1


def test_a_grammar_of_select_is_made_once_until_tables_are_forgotten(
    model: Any, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making one takes a fifth of a second: who times the first question on some tables has to wait for it."""
    made: list[Any] = []

    def counted(schemas: Any, *, lead: str) -> str:
        made.append(schemas)
        return select_grammar(schemas, lead=lead)

    monkeypatch.setattr(grammar, "select_grammar", counted)
    requests = [replace(r, kind="select") for r in random_requests(2, tables=1, seed=8)]
    decoder = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=4))
    texts = [decoder.generate([r])[0].text for r in requests]
    assert len(made) == 1
    decoder.forget()
    assert decoder.generate(requests[1:])[0].text == texts[1]
    assert len(made) == 1
    decoder.forget_tables()
    assert decoder.generate(requests[1:])[0].text == texts[1]
    assert len(made) == 2


def test_a_schema_is_fed_once(model: Any, tokenizer: Any) -> None:
    requests = random_requests(6, tables=1, seed=8)
    fed: list[int] = []
    hook = model.get_input_embeddings().register_forward_hook(lambda module, inputs, out: fed.append(out.shape[1]))
    try:
        decoder = Decoder(model, tokenizer, DecodingOptions(batch_size=1))
        decoder.generate(requests[:1])
        first = fed[0]
        fed.clear()
        decoder.generate(requests[1:2])
        second = fed[0]
        decoder.forget()
        fed.clear()
        decoder.generate(requests[1:2])
        again = fed[0]
    finally:
        hook.remove()
    schema = len(tokenizer(requests[0].prompt.split("\n")[0]).input_ids)
    assert first > schema
    assert again - second >= schema


def test_results_come_as_they_end_and_return_in_order(model: Any, tokenizer: Any) -> None:
    requests = random_requests(20, tables=5, seed=4)
    seen: dict[int, Completion] = {}
    completions = Decoder(model, tokenizer, DecodingOptions(batch_size=3)).generate(
        requests, on_result=seen.__setitem__
    )
    assert list(seen) != sorted(seen)
    assert [seen[i] for i in range(20)] == completions
    assert Decoder(model, tokenizer).generate([]) == []


def test_a_cut_completion_says_so(model: Any, tokenizer: Any) -> None:
    requests = random_requests(8, tables=4, seed=6)
    for draft_tokens in (0, 8):
        options = DecodingOptions(max_new_tokens=5, draft_tokens=draft_tokens, batch_size=1)
        for got in Decoder(model, tokenizer, options).generate(requests):
            assert not got.finished and not got.stuck
            assert len(got.token_ids) == got.n_tokens == 5
            assert 0 <= got.n_forced <= 5


def test_a_text_that_ends_at_the_limit_is_not_cut(model: Any, tokenizer: Any) -> None:
    """One column and nothing to compare with: the aggregate is the last choice, and its guess ends the text."""
    schema = TableSchema("t", (Column("a", "real"),))
    passes = set()
    for cue in (
        "highest",
        "lowest",
        "average",
        "total",
        "how many",
        "how many ?",
        "mean",
        "most",
        "least",
        "sum of",
        "",
    ):
        asked = [request(schema, cue)]
        whole = Decoder(model, tokenizer, PLAIN).generate(asked)[0]
        assert whole.finished and whole.n_tokens == len(whole.token_ids)  # it ended without EOS
        got = Decoder(model, tokenizer, replace(PLAIN, max_new_tokens=whole.n_tokens, draft_tokens=8)).generate(asked)[
            0
        ]
        assert got.token_ids == whole.token_ids and got.finished
        passes.add(got.forward_passes)
    assert 1 in passes


def test_an_unmerged_adapter_decodes_like_a_merged_one(tokenizer: Any) -> None:
    from peft import LoraConfig, get_peft_model

    base = tiny_model(len(tokenizer))
    requests = random_requests(10, tables=4, seed=9)
    before = Decoder(base, tokenizer).generate(requests)
    torch.manual_seed(1)
    lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "down_proj"], init_lora_weights=False)
    adapted = get_peft_model(base, lora).eval()
    unmerged = Decoder(adapted, tokenizer).generate(requests)
    merged = Decoder(adapted.merge_and_unload(), tokenizer).generate(requests)
    assert answers(unmerged) == answers(merged)
    assert answers(unmerged) != answers(before)


def test_the_model_attends_as_before_afterwards(model: Any, tokenizer: Any) -> None:
    before = model.config._attn_implementation
    requests = random_requests(1, tables=1, seed=1)

    def stop(index: int, completion: Completion) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Decoder(model, tokenizer).generate(requests, on_result=stop)
    assert model.config._attn_implementation == before


def test_half_precision_decodes(tokenizer: Any) -> None:
    decoder = Decoder(tiny_model(len(tokenizer)).to(torch.bfloat16), tokenizer)
    requests = random_requests(8, tables=3, seed=12)
    assert all(from_sql(c.text, r.schema) for r, c in zip(requests, decoder.generate(requests)))


def test_what_cannot_be_decoded_is_refused(model: Any, tokenizer: Any) -> None:
    decoder = Decoder(model, tokenizer)
    good = random_requests(1, tables=1, seed=1)[0]
    with pytest.raises(PromptError, match="request 1 has no schema"):
        decoder.generate([good, Request(good.prompt, good.question, None)])
    with pytest.raises(PromptError, match="prompt 0 is empty"):
        decoder.generate([Request("", "", good.schema)])
    with pytest.raises(PromptError, match="context of 1024"):
        decoder.generate([request(good.schema, "who " * 2000)])
    with pytest.raises(ModelError, match="sliding_window"):
        from transformers import MistralConfig, MistralForCausalLM

        config = MistralConfig(
            vocab_size=300,
            hidden_size=32,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            sliding_window=64,
        )
        Decoder(MistralForCausalLM(config), tokenizer)


def test_attention_that_would_be_another_is_refused(tokenizer: Any) -> None:
    import transformers

    small = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 300}
    for family in ("CodeGen", "GPTJ"):  # which would write, and not what the model would
        config = getattr(transformers, f"{family}Config")(rotary_dim=8, **small)
        with pytest.raises(ModelError, match="computes attention by itself"):
            Decoder(getattr(transformers, f"{family}ForCausalLM")(config), tokenizer)
    config = transformers.BertConfig(vocab_size=300, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    with pytest.raises(ModelError, match="attend to those after them"):
        Decoder(transformers.BertLMHeadModel(config), tokenizer)


@pytest.mark.parametrize(("family", "keys"), [("GPTNeoX", {}), ("StableLm", {"num_key_value_heads": 2})])
def test_other_families_write_as_themselves(family: str, keys: dict[str, int], tokenizer: Any) -> None:
    import transformers

    torch.manual_seed(3)
    shape = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_hidden_layers": 2}
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), eos_token_id=0, pad_token_id=None, initializer_range=0.3, **shape, **keys
    )
    other = getattr(transformers, f"{family}ForCausalLM")(config).eval()
    requests = random_requests(4, tables=2, seed=4)
    decoder = Decoder(other, tokenizer, DecodingOptions(grammar="none", max_new_tokens=8))
    for one, completion in zip(requests, decoder.generate(requests)):
        ids = tokenizer(one.prompt, add_special_tokens=False, return_tensors="pt").input_ids
        with torch.inference_mode():
            for _ in range(8):
                ids = torch.cat([ids, other(ids, use_cache=False).logits[:, -1:].argmax(-1)], 1)
        written = tokenizer.decode(ids[0], skip_special_tokens=False)[len(one.prompt) :]
        assert completion.text == written.partition(tokenizer.eos_token)[0]


def test_draws_differ_are_repeatable_and_keep_to_the_grammar(model: Any, tokenizer: Any, many: list[Request]) -> None:
    decoder = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=60, draft_tokens=4))
    draws = [replace(one, draw=number) for one in many[:6] for number in (1, 2, 3, 4)]
    drawn = decoder.generate(draws)
    assert len({c.text for c in drawn}) > 6
    assert [c.text for c in decoder.generate(draws)] == [c.text for c in drawn]
    for one, completion in zip(draws, drawn):
        if completion.finished:
            from_sql(completion.text, one.schema)


def test_requests_over_several_tables_get_the_grammar_of_select(model: Any, tokenizer: Any) -> None:
    decoder = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=60))
    schemas = (TableSchema("one", (Column("a", "text"),)), TableSchema("two", (Column("b", "real"),)))
    asked = Request("one(a text)\ntwo(b real)\nQuestion: what?\nSQL:\n", "what?", schemas, "select")
    assert decoder.generate([asked])[0].text.lstrip("(").startswith(("SELECT", "WITH"))


@pytest.fixture(scope="module")
def asked() -> list[Request]:
    """Questions for any SELECT over two tables, greedy and drawn."""
    schemas = (
        TableSchema("one", (Column("id", "real", "BIGINT"), Column("a", "text"), Column("day", "text", "DATE"))),
        TableSchema("two", (Column("id", "real", "BIGINT"), Column("b", "real"))),
    )
    prompts = [f"one(id, a, day)\ntwo(id, b)\nQuestion: what {word}?\nSQL:\n" for word in ("is a", "is b", "day is it")]
    greedy = [Request(prompt, prompt.split("\n")[2], schemas, "select") for prompt in prompts]
    return [*greedy, *(replace(one, draw=number) for one in greedy for number in range(1, 7))]


def test_whatever_select_ends_binds(model: Any, tokenizer: Any, asked: list[Request]) -> None:
    decoder = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=80))
    ended = 0

    def likes_to_end(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        logits[..., liked] += 20.0
        logits[..., 0] += 50.0
        return logits

    liked = tokenizer("SELECT MAX(id) FROM one, two WHERE a = '' AND b = 1").input_ids

    hook = model.get_output_embeddings().register_forward_hook(likes_to_end)
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE one (id BIGINT, a VARCHAR, day DATE); CREATE TABLE two (id BIGINT, b DOUBLE)")
        try:
            completions = decoder.generate(asked)
        finally:
            hook.remove()
        for got in completions:
            if got.finished:
                connection.execute(f"EXPLAIN {got.text}")
                ended += 1
    assert ended > 0


in_a_batch_and_with_guesses = pytest.mark.parametrize(
    "options",
    [
        DecodingOptions(max_new_tokens=40, batch_size=7),
        DecodingOptions(max_new_tokens=40, batch_size=1, draft_tokens=8),
        DecodingOptions(max_new_tokens=40, batch_size=4, draft_tokens=16),
    ],
    ids=["a batch", "guesses alone", "guesses in a batch"],
)


@pytest.fixture(scope="module")
def asked_alone(model: Any, tokenizer: Any, asked: list[Request]) -> list[Completion]:
    return Decoder(model, tokenizer, PLAIN).generate(asked)


@pytest.fixture(scope="module")
def draws(many: list[Request]) -> list[Request]:
    return [replace(one, draw=number) for one in many[:8] for number in (1, 2, 3)]


@pytest.fixture(scope="module")
def drawn_alone(model: Any, tokenizer: Any, draws: list[Request]) -> dict[str, list[Completion]]:
    """By the grammar that they keep to."""
    return {g: Decoder(model, tokenizer, replace(PLAIN, grammar=g)).generate(draws) for g in ("schema", "none")}


@in_a_batch_and_with_guesses
def test_selects_are_the_same_in_a_batch_and_with_guesses(
    model: Any, tokenizer: Any, asked: list[Request], asked_alone: list[Completion], options: DecodingOptions
) -> None:
    assert answers(Decoder(model, tokenizer, options).generate(asked)) == answers(asked_alone)


@in_a_batch_and_with_guesses
@pytest.mark.parametrize("grammar", ["schema", "none"])
def test_drawn_sketches_and_texts_are_the_same_in_a_batch_and_with_guesses(
    model: Any,
    tokenizer: Any,
    draws: list[Request],
    drawn_alone: dict[str, list[Completion]],
    grammar: Any,
    options: DecodingOptions,
) -> None:
    together = Decoder(model, tokenizer, replace(options, grammar=grammar)).generate(draws)
    assert answers(together) == answers(drawn_alone[grammar])


def test_an_answer_that_the_scopes_leave_without_a_token_is_stuck_and_not_cut(
    model: Any, tokenizer: Any, asked: list[Request]
) -> None:
    """The model knows no tokens but these, so no table can bring a column that is no table's."""
    known = tokenizer("SELECT a FROM two").input_ids

    def only_known(module: Any, inputs: Any, logits: torch.Tensor) -> torch.Tensor:
        kept = logits[..., known].clone()
        logits[:] = -torch.inf
        logits[..., known] = kept
        return logits

    hook = model.get_output_embeddings().register_forward_hook(only_known)
    try:
        completions = Decoder(model, tokenizer, DecodingOptions(max_new_tokens=40)).generate(asked)
    finally:
        hook.remove()
    for got in completions:
        assert got.stuck and not got.finished
        assert got.n_tokens < 40
