"""What is checked when an asset is made. Broken data blocks what follows; missed targets warn."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import dagster as dg

from t2s_assets.text2sql.data_checks import verdicts
from t2s_assets.text2sql.data_checks.verdicts import GOLD_FAILURES_ALLOWED, DataVerdict
from t2s_assets.text2sql.dataset_config import Targets
from t2s_assets.text2sql.reports import report as reports

_DESCRIPTIONS = {
    "splits_disjoint": "No table is asked about in two splits.",
    "gold_runs": f"At most {GOLD_FAILURES_ALLOWED:.0%} of a split's gold queries fail in DuckDB.",
    "gold_matches_itself": "Gold scored as a prediction is right wherever it runs, and some does.",
    "examples_sound": "Every training example has a prompt, SQL to learn that its labels spell, and one EOS, at its "
    "end; no table of another split is trained on; the base has an embedding for each token.",
    "adapter_size": "The adapter is under the dataset's target, 100 MB where it sets none.",
    "em_target": "EM on the test questions is over the dataset's target.",
    "ex_target": "EX on the test questions is over the dataset's target.",
    "latency_target": f"95 % of single queries take less than {reports.LATENCY_TARGET_MS:g} ms on this machine.",
}


def specs(
    asset: dg.AssetKey, *names: str, blocking: bool, partitions: dg.PartitionsDefinition | None = None
) -> list[dg.AssetCheckSpec]:
    """Check specs of one asset; with `partitions`, each experiment keeps a result of its own."""
    with warnings.catch_warnings():
        # Dagster calls a check's partitions a preview, once for each check, whenever anything is loaded.
        warnings.simplefilter("ignore", dg.PreviewWarning)
        return [
            dg.AssetCheckSpec(
                name, asset=asset, blocking=blocking, description=_DESCRIPTIONS[name], partitions_def=partitions
            )
            for name in names
        ]


def _result(name: str, passed: bool, found: str, *, blocking: bool, **metadata: Any) -> dg.AssetCheckResult:
    """A result that says in words what was `found`."""
    severity = dg.AssetCheckSeverity.ERROR if blocking else dg.AssetCheckSeverity.WARN
    return dg.AssetCheckResult(check_name=name, passed=passed, severity=severity, description=found, metadata=metadata)


def _of_data(name: str, verdict: DataVerdict, **metadata: Any) -> dg.AssetCheckResult:
    return _result(name, verdict.passed, verdict.message, blocking=True, **metadata)


def splits_disjoint(shared: list[str], twins: list[tuple[str, str]]) -> dg.AssetCheckResult:
    """No table is asked about in two splits; of data of one's own, no question of a database.

    Tables of the same content under two ids, or questions with the same gold, are shown beside it.
    """
    metadata = {"tables_in_two_splits": len(shared), "first": ", ".join(shared[:10]), "same_content": len(twins)}
    return _of_data("splits_disjoint", verdicts.splits_disjoint(shared), **metadata)


def gold_runs(facts: Mapping[str, Any]) -> dg.AssetCheckResult:
    """At most 5 % of a split's gold queries fail in DuckDB; each that does is listed in the asset's metadata.

    Data of one's own leave such questions out, with those whose SQL cannot be read: at most 20 % of all together.
    """
    counts = {f"failed_{split}": facts["gold_that_does_not_run"].get(split, 0) for split in facts["questions"]}
    if "left_out" in facts:
        counts = {"left_out": facts["left_out"] + sum(counts.values())} | counts
    return _of_data("gold_runs", verdicts.gold_runs(facts), **counts)


def gold_matches_itself(agreement: Mapping[str, Any]) -> dg.AssetCheckResult:
    """Gold scored as a prediction is right on every question whose gold runs, and some runs."""
    metadata = {"questions": agreement["n"], "wrong": ", ".join(agreement["wrong"][:10])}
    return _of_data("gold_matches_itself", verdicts.gold_matches_itself(agreement), **metadata)


def examples_sound(problems: Mapping[str, int]) -> dg.AssetCheckResult:
    """Every training example has a prompt, SQL to learn that its labels spell, and one EOS, at its end; no table of
    another split is trained on; the base has an embedding for each token."""
    found = ", ".join(f"{problem}: {count:,}" for problem, count in problems.items()) or "no problem was found"
    return _result("examples_sound", not problems, found, blocking=True, **problems)


def adapter_size(adapter_mb: float, wanted: Targets) -> dg.AssetCheckResult:
    """The adapter is under the dataset's target."""
    met = adapter_mb < wanted.adapter_mb
    found = f"{adapter_mb:g} MB, to be under {wanted.adapter_mb:g} MB"
    return _result("adapter_size", met, found, blocking=False, adapter_mb=adapter_mb, under_mb=wanted.adapter_mb)


def target_checks(targets: Targets) -> list[str]:
    """The names of the checks that a dataset's reports have."""
    return [*(f"{measure}_target" for measure in targets.given), "latency_target"]


def targets(report: Mapping[str, Any], wanted: Targets) -> list[dg.AssetCheckResult]:
    """EM, EX and p95 latency against the targets; a sample's size stands beside its figures."""
    test = report["test"]
    found = []
    for measure, target in wanted.given.items():
        measured, met = test["overall"][measure], bool(report["targets"][reports.target_name(measure, target)])
        metadata = {"target": target, "n": measured["n"], "of": test["of"]}
        got = "of no question"
        if measured["value"] is not None:
            metadata["value"] = measured["value"]
            got = f"{100 * measured['value']:.1f} % on {measured['n']:,} of {test['of']:,} test questions"
        words = f"{measure.upper()} {got}, to be over {100 * target:g} %"
        found.append(_result(f"{measure}_target", met, words, blocking=False, **metadata))
    p95 = report["latency"]["total_ms"].get("p95")
    timed = {} if p95 is None else {"p95_ms": p95}
    got = "of no query" if p95 is None else f"{p95:g} ms a query"
    words = f"p95 {got}, to be under {reports.LATENCY_TARGET_MS:g} ms"
    met = bool(report["targets"][reports.latency_target_name()])
    found.append(_result("latency_target", met, words, blocking=False, **timed))
    return found
