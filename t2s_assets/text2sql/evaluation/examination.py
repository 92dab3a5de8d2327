"""What an evaluation asks, of which model, and what that answers: predictions without their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from t2s_assets.text2sql import adapters, base_models
from t2s_assets.text2sql.config import DecodingConfig, Experiment
from t2s_assets.text2sql.decoding.types import Request
from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.evaluation.generations import Generated, Generations, KeptDraws, Log, completion_of, record
from t2s_assets.text2sql.evaluation.guidance import Content, settled, uses_table_content
from t2s_assets.text2sql.evaluation.kept_scores import KeptScores
from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets.text2sql.gold.protocol import AskedAbout, Question
from t2s_assets.text2sql.merged import load_ready, with_weights
from t2s_assets.text2sql.prepare import gold_of, load_questions, load_sql, load_tables, load_usable, sample
from t2s_assets.text2sql.prompt_datasets import check_made_for, load_prompts, prompts_manifest
from t2s_assets.text2sql.prompts import clean_question
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.storage import Project, content_hash, read_json

# A new number makes generations that were cached by older decoding code count as others.
_DECODING_VERSION = 8

_SPLITS = ("test", "validation")


def _decoding_key(config: DecodingConfig) -> dict[str, Any]:
    """What names generations: later fields count where they are set, so that earlier generations keep their name.

    What looks at tables comes after them.
    """
    first = config.model_dump(include={"grammar", "max_new_tokens", "batch_tokens"})
    return config.model_dump(exclude_defaults=True, exclude={"execution_guided", "value_grounding"}) | first


@dataclass(frozen=True)
class Examination:
    """An evaluation before a model is loaded: the questions, what the decoder is asked for each, and by which model."""

    project: Project
    dataset: str
    experiment: str
    config: Experiment
    gold: Any
    gold_version: str
    adapter: adapters.Adapter
    prompts: Mapping[str, Any]
    """The manifest of its prompts."""
    chosen: dict[str, list[Question]]
    tables: Mapping[str, AskedAbout]
    requests: dict[str, Request]
    placement: base_models.Placement

    @classmethod
    def of(cls, project: Project, dataset: str, experiment: str) -> Examination:
        """That of an experiment.

        Raises:
            DataError: its prompts are of other data or settings, or its adapter was trained on other prompts or
                otherwise.
        """
        config = project.experiment(dataset, experiment)
        gold = gold_of(project, dataset)
        manifest = prompts_manifest(project, dataset, experiment)  # first, as it is what training needs
        made_by = f"t2s train {dataset}/{experiment}"
        adapter = adapters.open_adapter(project.path(dataset, "adapter", experiment), made_by=made_by)
        check_made_for(project, dataset, experiment, config, base_models.fetch(config.base_model, project))
        prompts_version = manifest["data_version"]
        trained_on = read_json(adapter.folder / adapters.RESOLVED_CONFIG, made_by=made_by)["prompts_version"]
        if trained_on != prompts_version:
            raise DataError(
                f"{dataset}/{experiment}: the adapter was trained on prompts {trained_on}, but they are now "
                f"{prompts_version}; train again with: {made_by}"
            )
        if changed := adapters.trained_otherwise(adapter, config):
            raise DataError(
                f"{dataset}/{experiment}: the adapter was trained with other settings ({'; '.join(changed)}); train "
                f"again with: {made_by}, or put them back"
            )
        right = gold_version(project, dataset)
        chosen = choose_questions(project, dataset, config)
        data = load_prompts(project, dataset, experiment)
        prompts = {r["id"]: r["prompt"] for split in chosen for r in data[split].to_list()}
        tables = load_tables(project, dataset, list(chosen))
        requests = {
            q.id: question_request(q, tables, prompts, gold.FORMAT) for questions in chosen.values() for q in questions
        }
        placement = base_models.place_answering(config.hardware)
        return cls(
            project,
            dataset,
            experiment,
            config,
            gold,
            right,
            adapter,
            manifest,
            chosen,
            tables,
            requests,
            placement,
        )

    @property
    def everything(self) -> list[Question]:
        """The questions of all splits."""
        return [q for questions in self.chosen.values() for q in questions]

    def tuned(self) -> tuple[Any, Any]:
        """The trained model and its tokenizer."""
        return load_ready(self.adapter, self.project, self.placement, self.config.decoding)

    def untuned(self) -> tuple[Any, Any]:
        """The base and its tokenizer."""
        base = base_models.fetch(self.adapter.experiment.base_model, self.project)
        model = base_models.load_model(base, self.placement).eval()
        return with_weights(model, self.config.decoding), base_models.load_tokenizer(base)

    def keys(self) -> tuple[str, str]:
        """What names the generations of the adapter and of the base."""
        decoding = _decoding_key(self.config.decoding)
        key = {"decoding": decoding, "version": _DECODING_VERSION, "placement": self.placement.as_dict()}
        base = self.adapter.base_identity
        return content_hash(key, self.adapter.version, base), content_hash(key, "base", base)

    def check_unchanged(self) -> None:
        """Raises DataError where the dataset or the prompts are no longer those that this examination began with."""
        now = prompts_manifest(self.project, self.dataset, self.experiment)
        if any(now[name] != self.prompts[name] for name in ("data_version", "made_of")):
            raise DataError(
                f"{self.dataset}/{self.experiment}: its data were made anew while it was evaluated; evaluate again: "
                "what was answered on the same prompts is kept"
            )

    def kept_scores(self, log: Log) -> KeptScores:
        """Those of this evaluation, if it was killed."""
        decided_by = self.prompts["made_of"] | {"evaluation": self.config.evaluation.model_dump()}
        return KeptScores(self.project, decided_by, log, of=f"{self.dataset}/{self.experiment}")

    def answers(self, log: Log, *, rank: int = 0, ranks: int = 1) -> tuple[Generated, Generated]:
        """What adapter and base answer (nothing without `evaluation.baseline`); of several ranks, one's share."""
        cache = Generations(self.project.cache("generations"), self.config.decoding, log)
        tuned, base = self.keys()
        share = {"rank": rank, "ranks": ranks}
        answers = cache.get("adapter", tuned, self.requests, self.tuned, **share)
        if not self.config.evaluation.baseline:
            return answers, {}
        asked = {q.id: self.requests[q.id] for q in self.chosen["test"]}
        return answers, cache.get("base", base, asked, self.untuned, **share)

    def settled_answers(self, log: Log) -> tuple[Generated, Generated, dict[str, int]]:
        """The answers of adapter and base as they are in the end, the adapter's after looking at each question's own
        table where the config asks; and how many were drawn anew of each."""
        found = dict(zip(("adapter", "base"), self.answers(log)))
        decoding, redrawn = self.config.decoding, {}
        cache = Generations(self.project.cache("generations"), decoding, log)
        about = {q.id: self.tables[q.table_id] for q in self.everything} if uses_table_content(decoding) else {}
        with SqlExecutor() as executor:
            for name, key, load in zip(found, self.keys(), (self.tuned, self.untuned)):
                rows = found[name]
                requests = {i: self.requests[i] for i in rows}
                drawn = KeptDraws(cache, f"{name}, drawn anew", key, requests, load)
                read = [Content.of(about[i].prompted) if about and name == "adapter" else None for i in rows]
                given = [completion_of(row) for row in rows.values()]
                after = settled(drawn, list(requests.values()), given, read, decoding, executor)
                found[name] = {i: rows[i] | record(completion) for i, completion in zip(rows, after)}
                if drawn.questions:
                    redrawn[name] = drawn.questions
        return found["adapter"], found["base"], redrawn


def gold_version(project: Project, dataset: str) -> str:
    """What names the validation and test questions, the tables that they are asked about and what is right for them:
    with another, verdicts on the same ids are not on the same questions. Training questions do not count, so that more
    of them leave scores comparable.

    Raises:
        DataError: `sql` lacks a question that `questions` has.
    """
    sql, questions = load_sql(project, dataset, _SPLITS), load_questions(project, dataset, _SPLITS)
    if new := [q.id for q in questions if q.id not in sql]:
        raise DataError(
            f"{dataset}: `sql` is of other questions, it has no {new[0]}; make it again with: t2s prepare {dataset}"
        )
    right = ("sql", "status", "fingerprint", "bag_fingerprint", "degenerate")
    asked = sorted([q.id, q.split, q.text, *(sql[q.id][n] for n in right)] for q in questions)
    return content_hash(asked, gold_of(project, dataset).tables_version(project, dataset, _SPLITS))


def choose_questions(project: Project, dataset: str, config: Experiment) -> dict[str, list[Question]]:
    """The seeded samples of the test and the validation split that an experiment is scored on."""
    limits = {"test": config.evaluation.test_limit, "validation": config.evaluation.validation_limit}
    return {
        split: list(
            sample(load_usable(project, dataset, [split]), limit, seed=config.evaluation.seed, key=lambda q: q.id)
        )
        for split, limit in limits.items()
    }


def question_request(
    question: Question, tables: Mapping[str, AskedAbout], prompts: dict[str, str], gold: str
) -> Request:
    """What the decoder is asked for a question of a dataset, with its prompt as it was trained."""
    return request_for(prompts[question.id], clean_question(question.text), tables[question.table_id].schemas, gold)


def request_for(prompt: str, question: str, schemas: Sequence[TableSchema], gold: str) -> Request:
    """What the decoder is asked, by the kind of gold: WikiSQL's sketch over its one table, or any SELECT."""
    return Request(prompt, question, tuple(schemas), "select" if gold == "sql" else "sketch")
