"""How likely an answer is right, and when to give none.

The log-probability of the tokens that a model chose ranks its answers. Isotonic regression (Zadrozny and Elkan 2002;
fitted by pooling adjacent violators) of the verdicts on validation questions turns it into a probability. A question
that names nothing of the table (tables/topic.py), answered with a log-probability below a threshold, is taken to be
about something else. The threshold is set so that at most `MOST_REFUSED` of the validation questions would be refused,
and is at most `SURE`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from t2s_assets.text2sql.config import DecodingConfig
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import read_json, write_json

FILE = "confidence.json"
FEWEST = 50
"""Fewer validation answers tell nothing about a probability."""

MOST_REFUSED = 0.02

SURE = math.log(0.5)
"""An answer to which the model gives more than this is not refused as unsure, whatever few validation questions say."""


@dataclass(frozen=True)
class Verdict:
    """One validation answer: its log-probability, whether it is right (EX), and whether its question is `off_topic`."""

    logprob: float
    right: bool
    off_topic: bool


@dataclass(frozen=True)
class Confidence:
    """A fit on `n` validation answers of one adapter, decoded as `decoding` says (`decoded_as`).

    `logprobs`, ascending, and `probabilities`, not descending, are the ends of the regression's steps; between steps
    it is linear. `unrelated_below` is the log-probability under which a question that is `off_topic` is refused.
    """

    adapter_version: str
    n: int
    logprobs: tuple[float, ...]
    probabilities: tuple[float, ...]
    unrelated_below: float
    decoding: Mapping[str, Any] = field(default_factory=dict)

    def probability(self, logprob: float) -> float:
        """The share of answers of this log-probability that are right, by the fit."""
        return float(np.interp(logprob, self.logprobs, self.probabilities))

    def at_most(self, logprob: float) -> bool:
        """Whether the probability is that of the lowest step, below which the fit tells nothing apart."""
        return self.probability(logprob) <= self.probabilities[0]

    def unrelated(self, logprob: float, off_topic: bool) -> bool:
        """Whether the question seems to have nothing to do with the schema."""
        return off_topic and logprob < self.unrelated_below

    def save(self, folder: Path) -> None:
        """Write the fit into `folder`."""
        write_json(folder / FILE, asdict(self))


def decoded_as(config: DecodingConfig) -> dict[str, Any]:
    """The settings on which an answer's log-probability, or whether it is right, hangs."""
    return config.model_dump(mode="json", include={"grammar", "weights", "execution_guided", "value_grounding"})


def load_confidence(folder: Path, adapter_version: str, decoding: DecodingConfig) -> Confidence | None:
    """The fit in a predictions folder; None where there is none of this adapter, so decoded.

    Raises DataError for a broken one.
    """
    if not (folder / FILE).is_file():
        return None
    content = read_json(folder / FILE, made_by="t2s evaluate")
    try:
        fit = Confidence(**{k: tuple(v) if isinstance(v, list) else v for k, v in content.items()})
    except TypeError as e:
        raise DataError(f"{folder / FILE} is no calibration that this version reads ({e}); evaluate again") from e
    return fit if fit.adapter_version == adapter_version and fit.decoding == decoded_as(decoding) else None


def fit_confidence(verdicts: Sequence[Verdict], adapter_version: str, decoding: DecodingConfig) -> Confidence | None:
    """The fit on validation answers; None for fewer than `FEWEST`."""
    if len(verdicts) < FEWEST:
        return None
    ordered = sorted(verdicts, key=lambda v: v.logprob)
    # Each block: right answers, answers, first and last log-probability. Equal log-probabilities are one block.
    blocks: list[list[float]] = []
    for verdict in ordered:
        if blocks and blocks[-1][3] == verdict.logprob:
            blocks[-1][0] += verdict.right
            blocks[-1][1] += 1
        else:
            blocks.append([float(verdict.right), 1.0, verdict.logprob, verdict.logprob])
    pooled: list[list[float]] = []
    for block in blocks:
        pooled.append(block)
        while len(pooled) > 1 and pooled[-2][0] * pooled[-1][1] >= pooled[-1][0] * pooled[-2][1]:
            right, n, _, last = pooled.pop()
            pooled[-1][0] += right
            pooled[-1][1] += n
            pooled[-1][3] = last
    logprobs: list[float] = []
    probabilities: list[float] = []
    for right, n, first, last in pooled:
        # With one answer of each kind added, no block of a few answers is certain of anything.
        share = (right + 1) / (n + 2)
        for at in (first, last) if first < last else (first,):
            logprobs.append(at)
            probabilities.append(max(share, probabilities[-1] if probabilities else 0.0))
    return Confidence(
        adapter_version,
        len(verdicts),
        tuple(logprobs),
        tuple(probabilities),
        _unrelated_below(ordered),
        decoded_as(decoding),
    )


def _unrelated_below(ordered: Sequence[Verdict]) -> float:
    """The highest threshold up to `SURE` that refuses at most `MOST_REFUSED` of the verdicts, which ascend by
    log-probability."""
    strangers = [v.logprob for v in ordered if v.off_topic]
    allowed = int(MOST_REFUSED * len(ordered))
    return min(SURE, strangers[allowed]) if len(strangers) > allowed else SURE


def reason_to_abstain(confidence: Confidence, logprob: float, off_topic: bool, min_confidence: float) -> str | None:
    """Why no answer is given, or None."""
    if confidence.unrelated(logprob, off_topic):
        return "cannot be answered from this table: no word of the question is in its columns, and the model is unsure"
    probability = confidence.probability(logprob)
    if probability < min_confidence:
        return f"an answer would be right with probability {probability:.2f}, below --min-confidence {min_confidence:g}"
    return None
