"""Running SQL that nobody has vouched for: model-generated queries run here and nowhere else.

    with SqlExecutor() as executor:
        outcome = executor.run_one(database, 'SELECT "Name" FROM "table" WHERE "Year" > 1990')

A query passes an allow-list (`check_sql`) and then runs in a child process that is limited in time, memory
and files, in an in-memory DuckDB that holds only the given tables. docs/execution.md says what is covered.
"""

from t2s_assets.text2sql.execution.executor import SqlExecutor
from t2s_assets.text2sql.execution.guard import check_sql
from t2s_assets.text2sql.execution.jobs import Database, Job, Limits, Outcome, Relation
from t2s_assets.text2sql.execution.lexer import RefusedSQL

__all__ = ["Database", "Job", "Limits", "Outcome", "RefusedSQL", "Relation", "SqlExecutor", "check_sql"]
