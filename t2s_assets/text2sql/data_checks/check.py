"""Looking a dataset over before anything is trained: `t2s check-data`.

The dataset is prepared for real, by the same code that training uses, into a temporary storage that is thrown away.
Of a dataset of one's own, lines that cannot be read are put aside first, so that one run shows everything.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import yaml

from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.config import Experiment
from t2s_assets.text2sql.config_files import expand_path, experiment_names
from t2s_assets.text2sql.data_checks.cost import Cost, training_cost
from t2s_assets.text2sql.data_checks.findings import (
    SPLITS,
    Finding,
    balance,
    leaking,
    place,
    repeated,
    suggestion,
    unbalanced,
)
from t2s_assets.text2sql.dataset_config import OwnDataset
from t2s_assets.text2sql.datasets.own import database_paths, read_database, read_questions
from t2s_assets.text2sql.datasets.question_files import QuestionFile
from t2s_assets.text2sql.errors import ConfigError, DataError, ModelError, PromptError
from t2s_assets.text2sql.json_lines import whole_rows
from t2s_assets.text2sql.schema import TableSchema
from t2s_assets.text2sql.storage import Project

Log = Callable[[str], None]

_REWRITE = "say it in another way (docs/decoding.md, Any SELECT), or set decoding.grammar: none"


@dataclass
class DataCheck:
    """What `check` found; `complete` is False where errors kept it from looking further."""

    dataset: str
    findings: list[Finding] = field(default_factory=list)
    tables: int = 0
    questions: dict[str, int] = field(default_factory=dict)
    categories: dict[str, dict[str, int]] = field(default_factory=dict)
    aggregates: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    experiment: str | None = None
    lengths: dict[str, dict[str, float]] = field(default_factory=dict)
    cost: Cost | None = None
    complete: bool = False

    @property
    def errors(self) -> list[Finding]:
        """The findings that must be mended."""
        return [f for f in self.findings if f.level == "error"]

    @property
    def warnings(self) -> list[Finding]:
        """The findings to judge."""
        return [f for f in self.findings if f.level == "warning"]


@dataclass(frozen=True)
class _Scratch(Project):
    """A project in a temporary folder with the caches of a real one."""

    cached: Path = Path()

    def cache(self, *parts: str) -> Path:
        """As the real project's, but for the results of gold, which belong to a dataset that is made for good."""
        return super().cache(*parts) if parts[:1] == ("results",) else self.cached.joinpath(*parts)


def check(
    project: Project,
    dataset: str,
    experiment: str | None = None,
    *,
    rate: float | None = None,
    log: Log = lambda line: None,
) -> DataCheck:
    """Look over a dataset, and with an experiment its prompts and what training would take.

    Without one, the dataset's only experiment is taken, or the one that its `retrain` names. `rate` is in tokens a
    second; without it, the rate of the experiment's last training is taken where there is one.

    Raises:
        ConfigError: dataset.yaml or the experiment is missing or breaks rules.
    """
    config = project.dataset(dataset)
    found = DataCheck(dataset)
    found.experiment = experiment or _usual_experiment(project, dataset, found)
    settings = project.experiment(dataset, found.experiment) if found.experiment else None
    with tempfile.TemporaryDirectory(prefix="t2s-check-") as folder:
        scratch = _Scratch(project.configs, Path(folder) / "storage", project.cache())
        if isinstance(config, OwnDataset):
            log("reading databases and questions")
            problems, lines = _unreadable(config, project.configs / dataset)
            found.findings += [_located(p) for p in problems]
            if problems:
                if lines is None:
                    return found
                configs = _configs_without(lines, config, project, dataset, Path(folder))
                scratch = _Scratch(configs, scratch.storage, scratch.cached)
        try:
            _look_at_data(scratch, dataset, config, found, log)
            if isinstance(config, OwnDataset) and (settings is None or settings.decoding.grammar == "schema"):
                found.findings += _outside_the_grammar(scratch, dataset, log)
            if settings is not None and found.experiment is not None:
                examples = _look_at_prompts(scratch, found, found.experiment, settings, log)
                if examples:
                    tokens = round(examples * found.lengths["train"]["mean"])
                    adapter = project.path(dataset, "adapter", found.experiment)
                    nodes = settings.ranks // settings.training.processes
                    found.cost = training_cost(
                        settings.training, examples, tokens, rate=rate, adapter=adapter, nodes=nodes
                    )
        except DataError as e:
            first, *rest = str(e).splitlines()
            found.findings += [Finding("error", "unreadable", "", line.strip()) for line in rest or [first]]
            return found
    found.complete = True
    return found


def _usual_experiment(project: Project, dataset: str, found: DataCheck) -> str | None:
    names = experiment_names(project.configs, dataset)
    retrain = project.dataset(dataset).retrain
    if len(names) == 1:
        return names[0]
    if retrain is not None:
        return retrain.experiment
    why = f"there are {', '.join(names)}: name one, {dataset}/EXPERIMENT" if names else f"{dataset} has none yet"
    found.notes.append(f"prompts and cost are those of an experiment, and {why}")
    return None


# ------------------------------------------------------------------------------------- lines that cannot be read


def _unreadable(config: OwnDataset, folder: Path) -> tuple[list[str], set[int] | None]:
    """(problems of databases and questions, lines of the questions to put aside or None where that is no help)."""
    problems: list[str] = []
    known: dict[str, list[str]] = {}
    for name, path in database_paths(config, folder, problems).items():
        try:
            known[name] = [t.schema.name for t in read_database(path)]
        except DataError as e:
            known[name] = []  # its questions are still looked at, as far as that goes
            problems.append(str(e))
    no_database = bool(problems)
    try:
        file = expand_path(config.questions, folder)
    except ConfigError as e:
        return [*problems, str(e)], None
    about_lines: list[str] = []
    questions = read_questions(file, known, about_lines) if known else ()
    if no_database:
        about_lines = [p for p in about_lines if ": tables: " not in p]
    lines = set()
    for problem in about_lines:
        number = problem.removeprefix(f"{file}:").split(":")[0]
        if not number.isdecimal():  # of the file as a whole
            return [*problems, *about_lines], None
        lines.add(int(number))
    return [*problems, *about_lines], None if no_database or not questions else lines


def _located(problem: str) -> Finding:
    """A reader's message, with its file and line taken apart where it begins with them."""
    where, colon, message = problem.partition(": ")
    if colon and where.rpartition(":")[2].isdecimal():
        return Finding(
            "error", "unreadable", f"{Path(where.rpartition(':')[0]).name}:{where.rpartition(':')[2]}", message
        )
    return Finding("error", "unreadable", "", problem)


def _configs_without(lines: set[int], config: OwnDataset, project: Project, dataset: str, folder: Path) -> Path:
    """A copy of the dataset's configs whose questions leave those lines out; the others keep their numbers."""
    source = project.configs / dataset
    target = folder / "configs" / dataset
    # Hidden files are none of the dataset's, and an editor's lock is a link to nothing.
    unwanted = [p.name for p in source.iterdir() if p.suffix != ".yaml" or p.name.startswith(".")]
    shutil.copytree(source, target, ignore=lambda where, names: unwanted)
    questions = expand_path(config.questions, source)
    kept = QuestionFile(questions, questions.read_bytes()).without(lines)
    (target / questions.name).write_bytes(kept)
    paths = {name: str(path.absolute()) for name, path in database_paths(config, source, []).items()}
    content = config.model_dump(mode="json", exclude_unset=True) | {"databases": paths, "questions": questions.name}
    (target / "dataset.yaml").write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    return target.parent


# ---------------------------------------------------------------------------------------------- data and prompts


def _look_at_data(project: Project, dataset: str, config: Any, found: DataCheck, log: Log) -> None:
    own = isinstance(config, OwnDataset)
    log("preparing tables and questions")
    tables = prepare.make_tables(project, dataset, log=_quiet)
    facts = prepare.make_questions(project, dataset, log=_quiet)
    found.tables = sum(tables["tables"].values())
    found.questions = {split: facts["questions"].get(split, 0) for split in SPLITS}
    if "split_by" in facts:
        found.notes.append(f"splits: {facts['split_by']}")
    found.notes += [f"cut: {cut}" for cut in tables.get("tables_cut", ())]
    databases = prepare.load_tables(project, dataset)
    if own:
        found.findings += _left_out(project, dataset, config.dialect, databases)
    questions = prepare.load_questions(project, dataset)
    found.findings += leaking(prepare.leaks(project, dataset), own)
    found.findings += repeated(questions)
    log(f"running {len(questions):,} queries")
    prepare.make_sql(project, dataset, log=_quiet)
    rows = list(prepare.load_sql(project, dataset).values())
    for row in rows:
        where = row.get("where") or row["id"]
        if row["status"] != "ok":
            hint = suggestion(row["sql"], "duckdb", databases[row["table_id"]].schemas) if own else ""
            message = f"{row['message'].splitlines()[0]} {hint}".rstrip()
            # A benchmark's broken gold is not its reader's to mend, and is kept out of scoring.
            level = "error" if own else "warning"
            found.findings.append(Finding(level, "SQL that does not run", where, f"{row['sql']}: {message}"))
        elif row["degenerate"]:
            message = f"{row['sql']}: returns no row, or nothing but NULL"
            found.findings.append(Finding("warning", "no answer", where, message))
    found.categories, found.aggregates = balance(rows, "category"), balance(rows, "aggregate")
    found.findings += unbalanced(found.categories)


def _quiet(line: str) -> None:
    pass


def _left_out(project: Project, dataset: str, dialect: str, databases: Any) -> list[Finding]:
    """Findings for lines whose SQL cannot be read."""
    source = {q["id"]: q["table_id"] for q in _source_questions(project, dataset)}
    found = []
    for row in whole_rows(project.path(dataset, "questions") / "left_out.jsonl", "id", "sql", "reason", "where"):
        schemas: Sequence[TableSchema] = databases[source[row["id"]]].schemas
        message = f"{row['sql']}: {row['reason']} {suggestion(row['sql'], dialect, schemas)}".strip()
        found.append(Finding("error", "SQL that cannot be used", row["where"], message))
    return found


def _outside_the_grammar(project: Project, dataset: str, log: Log) -> list[Finding]:
    """Findings for gold that runs, and that a model which keeps to the grammar of SELECT can never write."""
    from t2s_assets.text2sql.decoding.acceptance import Acceptance

    databases = prepare.load_tables(project, dataset)
    questions = prepare.load_usable(project, dataset)
    log(f"holding {len(questions):,} queries against decoding.grammar: schema")
    found = []
    for name, asked in groupby(sorted(questions, key=lambda q: q.table_id), key=lambda q: q.table_id):
        try:
            grammar = Acceptance(databases[name].schemas)
        except PromptError as e:
            found.append(
                Finding("error", "grammar", name, f"{e}; rename or drop columns, or set decoding.grammar: none")
            )
            continue
        for q in asked:
            stop = grammar.stops_at(q.sql)
            if stop is not None:
                message = f"{q.sql}: the grammar stops at {stop!r}; {_REWRITE}"
                found.append(Finding("warning", "SQL that a model may not write", place(q), message))
    return found


def _source_questions(project: Project, dataset: str) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    path = project.path(dataset, "tables") / "source_questions.parquet"
    return pq.read_table(path, columns=["id", "table_id"]).to_pylist()


def _look_at_prompts(project: Project, found: DataCheck, name: str, settings: Experiment, log: Log) -> int:
    """Measure an experiment's prompts. Returns how many examples would train; 0 where that is not known."""
    from t2s_assets.text2sql.prompt_datasets import make_prompts

    log(f"building the prompts of {name}")
    try:
        facts = make_prompts(project, found.dataset, name, log=_quiet)
    except (ConfigError, PromptError) as e:
        found.findings.append(Finding("error", "prompts", name, str(e)))
        return 0
    except ModelError as e:
        found.findings.append(Finding("warning", "prompts", name, f"not measured, for want of the tokenizer: {e}"))
        return 0
    found.lengths = facts["tokens"]
    for split, linked in facts.get("linking", {}).items():
        if linked["linked"]:
            kept = (
                "" if linked["recall"] is None else f"; the questions find {linked['recall']:.1%} of the gold's columns"
            )
            kept += ", and to train on all are shown" if split == "train" else ""
            found.notes.append(
                f"{linked['linked']} of {linked['of']} {split} prompts show a choice of columns, since the schema is "
                f"too long{kept}"
            )
    limit = settings.prompt.max_length
    for split in SPLITS:
        count = facts["over_max_length"].get(split, 0)
        if count:
            ids = ", ".join(facts["over_max_length_ids"][split][:5]) + (", ..." if count > 5 else "")
            effect = "is not trained on" if split == "train" else "cannot be answered"
            message = f"{count} of the {split} split exceed prompt.max_length = {limit} tokens; each {effect}: {ids}"
            found.findings.append(Finding("warning", "prompts", name, message))
    return facts["examples"].get("train", 0)
