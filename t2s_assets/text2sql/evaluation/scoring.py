"""Answers scored: what they mean and what they return, beside the gold."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from t2s_assets.text2sql.collector import rare_collections
from t2s_assets.text2sql.config import EvaluationConfig
from t2s_assets.text2sql.evaluation.perturbation import Case, suite_verdicts
from t2s_assets.text2sql.execution import Database, Job, Outcome, SqlExecutor
from t2s_assets.text2sql.gold.kept_results import GoldResults
from t2s_assets.text2sql.gold.protocol import AskedAbout, Question
from t2s_assets.text2sql.prepare import load_sql
from t2s_assets.text2sql.storage import Project

Log = Callable[[str], None]
Row = dict[str, Any]
Answers = Mapping[str, Mapping[str, Any]]
"""By question id: `text`, `logprob`, `n_tokens`, `forward_passes` and `finished`, as generations.py keeps them."""

SCORED_OF_ANSWER = ("text", "logprob", "n_tokens", "forward_passes", "finished")
_SHOWN_ROWS = 5


class Scorer:
    """Scores answers to a dataset's questions. A context manager, which holds the SQL workers.

    splits: those of the questions, whose gold it loads. tables: what the questions are asked about, by `table_id`.
    """

    def __init__(
        self, project: Project, dataset: str, splits: Sequence[str], tables: Mapping[str, AskedAbout], log: Log
    ) -> None:
        self._tables, self._log = tables, log
        self._gold = load_sql(project, dataset, sorted(set(splits)))
        self._results = GoldResults.of(project, dataset, log)
        self._databases: dict[str, Database] = {}
        self._executor = SqlExecutor()

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self._executor.close()

    def score(self, questions: Sequence[Question], answers: Answers) -> list[Row]:
        """One row a question with its verdicts: predicted SQL runs in DuckDB, and gold whose result is not kept."""
        with rare_collections():
            self._executor.start(len(questions))
            jobs = []
            for question in questions:
                # On one database, so that its tables are loaded once, and an answer with the gold's text runs once.
                database = self._database(question)
                jobs.append(Job(database, answers[question.id]["text"].strip()))
                jobs.append(Job(database, self._gold_text(question)))
            outcomes = self._results.run(self._executor, jobs)
            return [
                self._row(question, answers[question.id], predicted, gold)
                for question, predicted, gold in zip(questions, outcomes[::2], outcomes[1::2])
            ]

    def with_suite(self, questions: Sequence[Question], rows: list[Row], config: EvaluationConfig) -> list[Row]:
        """`rows` with `test_suite`: whether the prediction is right on its table and on every perturbed copy of it.

        An answer that means the gold's own query returns the gold's result on any table and is not run; one that is
        wrong on its own table is wrong. None everywhere where `evaluation.test_suite_copies` is 0.
        """
        if not config.test_suite_copies:
            return [row | {"test_suite": None} for row in rows]
        doubtful = [i for i, row in enumerate(rows) if row["ex"] and not row["em"]]
        keys = {question.table_id: self._database(question).key for question in questions}
        golds: dict[str, list[str]] = {}
        for truth in self._gold.values():
            if truth["table_id"] in keys:
                golds.setdefault(keys[truth["table_id"]], []).append(truth["sql"])
        cases = []
        for i in doubtful:
            question, truth = questions[i], self._gold[questions[i].id]
            cases.append(
                Case(
                    self._database(question),
                    self._gold_text(question),
                    rows[i]["sql"],
                    lambda outcome, question=question, truth=truth: question.compared(outcome, truth).fingerprint,
                )
            )
        verdicts = suite_verdicts(
            self._executor, cases, golds, copies=config.test_suite_copies, seed=config.seed, log=self._log
        )
        run = dict(zip(doubtful, verdicts))
        return [row | {"test_suite": run.get(i, row["ex"])} for i, row in enumerate(rows)]

    def _database(self, question: Question) -> Database:
        id = question.table_id
        if id not in self._databases:
            self._databases[id] = self._tables[id].prompted
        return self._databases[id]

    def _gold_text(self, question: Question) -> str:
        """The gold over the names that predictions know its tables by."""
        about = self._tables[question.table_id]
        own_names = about.prompted is about.database
        return self._gold[question.id]["sql"] if own_names else question.completion(about)

    def _row(self, question: Question, answer: Mapping[str, Any], predicted: Outcome, gold: Outcome) -> Row:
        truth = self._gold[question.id]
        verdict = question.verdict(answer["text"], self._tables[question.table_id])
        result = question.compared(predicted, truth)
        return {
            "id": question.id,
            "split": question.split,
            "table_id": question.table_id,
            "question": question.text,
            "gold_sql": truth["sql"],
            "sql": answer["text"].strip(),
            "parsed": verdict.parsed,
            "unparsed_because": verdict.unparsed_because,
            "category": truth["category"],
            "aggregate": truth["aggregate"],
            "conditions": truth["conditions"],
            "predicted_aggregate": verdict.aggregate,
            "status": predicted.status,
            "message": predicted.message,
            "fingerprint": result.fingerprint,
            "gold_fingerprint": truth["fingerprint"],
            "gold_degenerate": truth["degenerate"],
            "valid": predicted.ok,
            "em": verdict.em,
            "ex": result.ex,
            "ex_strict": result.ex_strict,
            "errors": verdict.errors,
            "logprob": answer["logprob"],
            "tokens": answer["n_tokens"],
            "forward_passes": answer["forward_passes"],
            "finished": answer["finished"],
            "result": _shown(predicted),
            "gold_result": _shown(gold),
        }


def score(
    project: Project,
    dataset: str,
    questions: Sequence[Question],
    tables: Mapping[str, AskedAbout],
    answers: Answers,
    log: Log,
) -> list[Row]:
    """`Scorer.score` with workers of its own."""
    if not questions:  # data of one's own may come without a test split
        return []
    with Scorer(project, dataset, [q.split for q in questions], tables, log) as scorer:
        return scorer.score(questions, answers)


def _shown(outcome: Outcome) -> str:
    """A result for people: the first rows, or why there are none."""
    if not outcome.ok:
        return f"{outcome.status}: {outcome.message}"
    rows = json.dumps([list(r) for r in outcome.rows[:_SHOWN_ROWS]], ensure_ascii=False, default=str)
    more = len(outcome.rows) - _SHOWN_ROWS
    return rows + (f" and {more} rows more" if more > 0 else "")
