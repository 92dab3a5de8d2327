"""What a model answered, kept by question as it comes, so that a killed evaluation goes on where it was."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.decoding.types import Completion, DecodingOptions, Request
from t2s_assets.text2sql.json_lines import append_rows, whole_rows
from t2s_assets.text2sql.progress_line import progress_line
from t2s_assets.text2sql.storage import content_hash

Log = Callable[[str], None]
Generated = dict[str, dict[str, Any]]

# Questions generated together; a kill costs at most so many. Far more than a batch, so that slots seldom run empty.
BLOCK = 256
# For a single question a token costs a CPU a fortieth of a pass, and three in five are right; int8 weights are read in
# short passes only.
_DRAFT_TOKENS = {"full": 16, "int8": 8}


def options(config: DecodingConfig, *, waited_for: bool = False) -> DecodingOptions:
    """The decoder's options of an experiment; `waited_for`: somebody waits for each answer.

    Answers that are kept and scored take the same number of threads whatever else the machine does, so that they are
    the same to the bit.
    """
    return DecodingOptions(
        grammar=config.grammar,
        max_new_tokens=config.max_new_tokens,
        token_budget=config.batch_tokens,
        draft_tokens=_DRAFT_TOKENS[config.weights],
        fewer_threads_when_busy=waited_for,
    )


class Generations:
    """Completions by question, one JSONL file for each model and way of decoding, appended to in blocks.

    The last bits of a log-probability depend on which questions share a batch. So they are generated in blocks of a
    fixed order, kept whole or not at all: after a kill, what is left is made in the batches that it would have been
    made in, and the answers are the same to the bit.
    """

    def __init__(self, folder: Path, decoding: DecodingConfig, log: Log) -> None:
        self.folder, self.decoding, self.log = folder, decoding, log

    def get(
        self,
        name: str,
        key: str,
        requests: dict[str, Request],
        load: Callable[[], tuple[Any, Any]],
        *,
        rank: int = 0,
        ranks: int = 1,
    ) -> Generated:
        """Completions of all requests, from the file where they are there, else generated and added.

        One of several `ranks` generates its share of the blocks into a file of its own, which `join` or the next call
        without ranks adds to the others. Until all ranks are done, nothing else may be added.
        """
        path = self.folder / f"{key}.jsonl"
        if ranks == 1:
            self.join(key)
        fingerprints = {i: _fingerprint(r) for i, r in requests.items()}
        known = {k: row for k, row in _whole_blocks(path) if k in fingerprints and row["prompt"] == fingerprints[k]}
        # By prompt, so that questions on one table share a block and its schema is fed once.
        missing = sorted((i for i in requests if i not in known), key=lambda i: (requests[i].prompt, i))
        blocks = [missing[start : start + BLOCK] for start in range(0, len(missing), BLOCK)][rank::ranks]
        missing = [i for block in blocks for i in block]
        if ranks > 1:
            path = path.with_name(f"{key}.rank-{rank}.jsonl")
        if not missing:
            self.log(f"{name}: all {len(requests):,} answers are there already")
            return known
        from t2s_assets.text2sql.decoding import Decoder

        self.log(f"{name}: generating {len(missing):,} answers, {len(known):,} are there already")
        model, tokenizer = load()
        decoder = Decoder(model, tokenizer, options(self.decoding))
        started = shown = time.monotonic()
        done = 0

        def count(index: int, completion: Completion) -> None:
            nonlocal done, shown
            done += 1
            if time.monotonic() - shown > 10:
                shown = time.monotonic()
                self.log(f"{name}: {progress_line(done, len(missing), shown - started)}")

        for block in blocks:
            decoder.forget()
            completions = decoder.generate([requests[i] for i in block], on_result=count)
            named = {"block": content_hash([[i, fingerprints[i]] for i in block]), "of": len(block)}
            rows = [
                {"id": i, "prompt": fingerprints[i], **named, **record(completion)}
                for i, completion in zip(block, completions)
            ]
            append_rows(path, rows)
            known |= {row["id"]: row for row in rows}
        self.log(f"{name}: {len(missing):,} answers in {time.monotonic() - started:.0f} s")
        return known

    def join(self, key: str) -> None:
        """Add what ranks have written to the file of all. Killed in between, a row is there twice, and the same."""
        path = self.folder / f"{key}.jsonl"
        for share in sorted(self.folder.glob(f"{key}.rank-*.jsonl")):
            append_rows(path, [row for _, row in _whole_blocks(share)])
            share.unlink()


class KeptDraws:
    """Further answers to questions, kept as the first ones are; `guidance` takes it for a decoder.

    `questions` says how many were asked again so far. Of equal requests, as of one question about two tables of the
    same columns, one is kept for all: equal requests give equal answers.
    """

    def __init__(
        self,
        cache: Generations,
        name: str,
        key: str,
        requests: Mapping[str, Request],
        load: Callable[[], tuple[Any, Any]],
    ) -> None:
        self._cache, self._name, self._key, self._load = cache, name, key, load
        self._ids = {request: i for i, request in requests.items()}
        self._again: Counter[str] = Counter()

    @property
    def questions(self) -> int:
        """How many were asked again, for whatever reasons."""
        return self._again.total()

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """What the decoder gives, from the file where it is there."""
        if not requests:
            return []
        ids = [self._ids[replace(request, draw=None)] for request in requests]
        # Asked for two reasons, a question counts once; each of several equal ones counts.
        self._again |= Counter(id for id, request in zip(ids, requests) if request.draw == 1)
        names = [f"{id} draw {request.draw}" for id, request in zip(ids, requests)]
        found = self._cache.get(self._name, self._key, dict(zip(names, requests)), self._load)
        return [completion_of(found[name]) for name in names]


def _fingerprint(request: Request) -> str:
    """What decides an answer of one model and way of decoding; a prompt need not show all tables that SQL may name."""
    columns = [[s.name, [[c.name, c.type, c.sql_type] for c in s.columns]] for s in request.schemas]
    return content_hash(request.prompt, request.question, request.kind, columns)


def record(completion: Completion) -> dict[str, Any]:
    """A completion as it is kept: all but its token ids."""
    row = asdict(completion)
    del row["token_ids"]
    return row


def completion_of(row: Mapping[str, Any]) -> Completion:
    """The completion that `record` kept, without its token ids."""
    kept = {f.name: row[f.name] for f in fields(Completion) if f.name in row}
    return Completion(token_ids=(), **kept)


def _whole_blocks(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The rows of the blocks that were written whole; a line that names no block is one of its own."""
    rows = [(row["id"], row) for row in whole_rows(path, "id", "prompt")]
    written: dict[str, set[str]] = {}
    for id, row in rows:
        written.setdefault(row.get("block", ""), set()).add(id)
    return [(id, row) for id, row in rows if len(written[row.get("block", "")]) >= row.get("of", 1)]
