"""A tiny random language model with a real byte-level tokenizer: made in a second, the same every time."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.decoding import Request
from t2s_assets.text2sql.query import identifier, table_identifier
from t2s_assets.text2sql.schema import Column, TableSchema, column_names

WORDS = (
    "year total points player max weight club (kg) date of South Australia O'Brien 1,990 -3.5 12 4-8 München"
).split()

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<|start|>' + message['role'] + '\n' + message['content'] + eos_token + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% endif %}"
)


def request(schema: TableSchema, question: str) -> Request:
    columns = ", ".join(f"{identifier(c.name)} {c.type}" for c in schema.columns)
    prompt = f"{table_identifier(schema.name)}({columns})\nQuestion: {' '.join(question.split())}\nSQL:\n"
    return Request(prompt, question, schema)


def random_requests(count: int, *, tables: int, seed: int) -> list[Request]:
    """`count` questions on `tables` tables of one to eight columns."""
    draw = random.Random(seed)

    def words(most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(1, most)))

    schemas = [
        TableSchema(
            "t",
            tuple(
                Column(name, draw.choice(["text", "real"]))
                for name in column_names([words(3) for _ in range(draw.randint(1, 8))])
            ),
        )
        for _ in range(tables)
    ]
    return [request(draw.choice(schemas), f"what is {words(2)} ?") for _ in range(count)]


def tiny_tokenizer(*, special: tuple[str, ...] = (), **settings: Any) -> Any:
    """A byte-level BPE of 600 tokens: every text survives it. `<|end|>`, id 0, ends SQL."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<|end|>", *special], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    texts = [r.prompt for r in random_requests(300, tables=100, seed=1)]
    sql = 'SELECT MAX("Year") FROM t WHERE "Club" = \'a\' AND "Points" > 1990 SELECT COUNT( AVG( SUM( MIN('
    bpe.train_from_iterator([*texts, *[sql] * 100], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>", **settings)


def tiny_model(vocabulary: int, **settings: Any) -> Any:
    """A random Llama with wide weights, so that its choices are clear and depend on what it reads."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    shape = {"hidden_size": 96, "intermediate_size": 96, "num_attention_heads": 6, "num_hidden_layers": 2} | settings
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=1024,
        initializer_range=0.3,
        eos_token_id=0,
        bos_token_id=None,
        **shape,
    )
    return LlamaForCausalLM(config).eval()


def save_tiny_base(folder: Path) -> Path:
    """A base model in transformers' layout, with a chat template: two layers, hidden 64, grouped-query attention."""
    tokenizer = tiny_tokenizer(special=("<|start|>",))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(str(folder))
    tiny_model(len(tokenizer), hidden_size=64, intermediate_size=128, num_attention_heads=4).save_pretrained(
        str(folder)
    )
    return folder
