"""`tables`, `questions` and `sql`: the source as read, and the SQL rebuilt from it."""

from pathlib import Path
from typing import Any

import dagster as dg

from t2s_assets import checks
from t2s_assets.assets import shown
from t2s_assets.resources import ProjectFolders
from t2s_assets.text2sql import prepare
from t2s_assets.text2sql.dataset_config import Targets

OWNERS = ["team:ml"]


def result(
    asset: str, folder: Path, manifest: dict[str, Any], targets: Targets, *check_results: dg.AssetCheckResult
) -> dg.MaterializeResult:
    """A materialization of what was written to `folder`, with its data version, and checks beside its quick ones."""
    return dg.MaterializeResult(
        metadata=shown.metadata(asset, folder, manifest),
        data_version=dg.DataVersion(manifest["data_version"]),
        check_results=[*shown.quick_checks(asset, folder, manifest, targets), *check_results],
    )


def data_assets(dataset: str, description: str, targets: Targets) -> list[dg.AssetsDefinition]:
    """The assets that do not depend on an experiment. `tables` shows the dataset's description."""
    key = {name: dg.AssetKey([dataset, name]) for name in ("tables", "questions", "sql")}
    common: dict[str, Any] = {"group_name": dataset, "owners": OWNERS, "code_version": "1"}

    @dg.asset(key=key["tables"], kinds={"parquet"}, description=f"Every source table.\n\n{description}", **common)
    def tables(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        project = folders.project
        manifest = prepare.make_tables(project, dataset, context.log.info)
        return result("tables", project.path(dataset, "tables"), manifest, targets)

    @dg.asset(
        key=key["questions"],
        deps=[key["tables"]],
        kinds={"parquet"},
        description="Every question with its structured query.",
        check_specs=checks.specs(key["questions"], "splits_disjoint", blocking=True),
        **common,
    )
    def questions(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        project = folders.project
        manifest = prepare.make_questions(project, dataset, context.log.info)
        disjoint = checks.splits_disjoint(*prepare.leaks(project, dataset))
        return result("questions", project.path(dataset, "questions"), manifest, targets, disjoint)

    @dg.asset(
        key=key["sql"],
        deps=[key["tables"], key["questions"]],
        kinds={"duckdb", "parquet"},
        description="Each question's SQL, proved to read back as its query, and its result in DuckDB.",
        check_specs=checks.specs(key["sql"], "gold_runs", "gold_matches_itself", blocking=True),
        **common,
    )
    def sql(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        project = folders.project
        manifest = prepare.make_sql(project, dataset, context.log.info)
        itself = checks.gold_matches_itself(prepare.gold_against_gold(project, dataset, context.log.info))
        return result("sql", project.path(dataset, "sql"), manifest, targets, itself)

    return [tables, questions, sql]
