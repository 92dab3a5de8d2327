"""`tables`, `questions` and `sql`: the source as read, and the SQL rebuilt from it."""

from typing import Any

import dagster as dg

from t2s_assets import checks
from t2s_assets.resources import ProjectFolders
from t2s_assets.text2sql import prepare

OWNERS = ["team:ml"]


def table_schema(**columns: str) -> dg.TableSchema:
    """Column names and types for Dagster's table view."""
    return dg.TableSchema([dg.TableColumn(name, kind) for name, kind in columns.items()])


def result(manifest: dict[str, Any], *check_results: dg.AssetCheckResult, **metadata: Any) -> dg.MaterializeResult:
    """A materialization with the data version of what was written."""
    return dg.MaterializeResult(
        metadata=metadata,
        data_version=dg.DataVersion(manifest["data_version"]),
        check_results=list(check_results),
    )


def left_out(manifest: dict[str, Any]) -> dict[str, Any]:
    """Questions of one's own: how they were split, and which are left out and why; nothing for WikiSQL's layout."""
    if "split_by" not in manifest:
        return {}
    records = [dg.TableRecord({k: out[k] for k in ("where", "reason", "sql")}) for out in manifest["left_out_first"]]
    schema = table_schema(where="text", reason="text", sql="text")
    return {
        "split_by": manifest["split_by"],
        "left_out": manifest["left_out"],
        "left_out_first": dg.MetadataValue.table(records, schema),
    }


def data_assets(dataset: str, description: str) -> list[dg.AssetsDefinition]:
    """The assets that do not depend on an experiment. `tables` shows the dataset's description."""
    key = {name: dg.AssetKey([dataset, name]) for name in ("tables", "questions", "sql")}
    common: dict[str, Any] = {"group_name": dataset, "owners": OWNERS, "code_version": "1"}

    @dg.asset(key=key["tables"], kinds={"parquet"}, description=f"Every source table.\n\n{description}", **common)
    def tables(context: dg.AssetExecutionContext, folders: ProjectFolders) -> dg.MaterializeResult:
        manifest = prepare.make_tables(folders.project, dataset, context.log.info)
        return result(
            manifest,
            **{
                "dagster/row_count": sum(manifest["tables"].values()),
                "dagster/column_schema": table_schema(
                    id="text", split="text", header="list", columns="list", types="list", rows="list of lists"
                ),
                **{f"{split}_tables": n for split, n in manifest["tables"].items()},
                "cells_rows": manifest["rows"],
                "tables_without_rows": manifest["tables_without_rows"],
                "number_cells_that_are_none": manifest["number_cells_that_are_none"],
                "path": dg.MetadataValue.path(folders.project.path(dataset, "tables")),
            },
        )

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
        return result(
            manifest,
            checks.splits_disjoint(*prepare.leaks(project, dataset)),
            **{
                "dagster/row_count": sum(manifest["questions"].values()),
                "dagster/column_schema": table_schema(
                    id="text", split="text", table_id="text", question="text", query="json"
                ),
                **{f"{split}_questions": n for split, n in manifest["questions"].items()},
                "duplicates": manifest["duplicates"],
                **left_out(manifest),
                "path": dg.MetadataValue.path(project.path(dataset, "questions")),
            },
        )

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
        failures = [dg.TableRecord({k: f[k] for k in ("id", "sql", "message")}) for f in manifest["failures"][:200]]
        return result(
            manifest,
            checks.gold_runs(manifest),
            checks.gold_matches_itself(prepare.gold_against_gold(project, dataset, context.log.info)),
            **{
                "dagster/row_count": sum(manifest["questions"].values()),
                **{f"category_{name}": n for name, n in manifest["category"].items()},
                **{f"aggregate_{name}": n for name, n in manifest["aggregate"].items()},
                "gold_that_does_not_run": sum(manifest["gold_that_does_not_run"].values()),
                "gold_without_an_answer": sum(manifest["gold_without_an_answer"].values()),
                "failures": dg.MetadataValue.table(failures, table_schema(id="text", sql="text", message="text")),
                "path": dg.MetadataValue.path(project.path(dataset, "sql")),
            },
        )

    return [tables, questions, sql]
