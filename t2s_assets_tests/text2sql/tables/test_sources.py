"""Tables and schemas as users give them."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
import subprocess
import sys
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.execution import SqlExecutor
from t2s_assets.text2sql.tables import csv_files, user_tables
from t2s_assets.text2sql.tables.asked import asked_about
from t2s_assets.text2sql.tables.sources import as_asked, as_table, from_ddl, from_json, open_source


def kinds(table: user_tables.UserTable) -> dict[str, str]:
    return {c.name: c.type for c in table.columns}


@pytest.mark.parametrize(
    ("ddl", "name", "columns"),
    [
        ("CREATE TABLE fruit (name VARCHAR, price DOUBLE)", "fruit", {"name": "text", "price": "real"}),
        ('create table "Fruit x" ("a ""b""" text, `price` int)', "Fruit x", None),
        ('CREATE TABLE "Fruit x" ("a ""b""" TEXT, "n, m" DECIMAL(4,2))', "Fruit x", {'a "b"': "text", "n, m": "real"}),
        (
            "CREATE TABLE f (id serial PRIMARY KEY, d date, ok boolean, p numeric(4,2) NOT NULL DEFAULT 0, UNIQUE (d))",
            "f",
            {"id": "real", "d": "text", "ok": "text", "p": "real"},
        ),
        (
            "CREATE TABLE `f` (`id` int(11) NOT NULL AUTO_INCREMENT, `n` varchar(3), PRIMARY KEY (`id`)) ENGINE=InnoDB",
            "f",
            {"id": "real", "n": "text"},
        ),
        ("CREATE TABLE [dbo].[x] ([a b] nvarchar(10), [n] int)", "dbo.x", {"a b": "text", "n": "real"}),
        ("-- a dump\nDROP TABLE IF EXISTS c;\nCREATE TABLE c (y, z INTEGER);\nINSERT INTO c VALUES (1, 2);", "c", None),
    ],
)
def test_create_table_of_several_dialects(ddl: str, name: str, columns: dict[str, str] | None) -> None:
    source = open_source(ddl=ddl)
    assert source.names == (name,)
    if columns is not None:
        assert kinds(source.table()) == columns


_SQL_SERVER = """\
USE [Shop]
GO
/****** Object:  Table [dbo].[Old]    Script Date: 1/1/2024
CREATE TABLE [dbo].[Old]([Id] [int]) ******/
SET ANSI_NULLS ON
GO
CREATE TABLE [dbo].[Orders](
\t[Id] [int] IDENTITY(1,1) NOT NULL,
\t[Note (old)] [nvarchar](max) NULL,
 CONSTRAINT [PK_Orders] PRIMARY KEY CLUSTERED
(
\t[Id] ASC
)WITH (PAD_INDEX = OFF, ALLOW_PAGE_LOCKS = ON) ON [PRIMARY]
) ON [PRIMARY] TEXTIMAGE_ON [PRIMARY]
GO
CREATE TABLE [dbo].[People](
\t[Born] [date] NULL
) ON [PRIMARY]
GO
ALTER TABLE [dbo].[Orders] ADD  CONSTRAINT [DF]  DEFAULT ((0)) FOR [Id]
GO
"""
_POSTGRES = """\
\\restrict x
SELECT pg_catalog.set_config('search_path', '', false);
CREATE TYPE public.mood AS ENUM (
    'sad'
);
CREATE FUNCTION public.f() RETURNS void LANGUAGE plpgsql AS $_$
begin
  create temp table scratch (a int);
end;
$_$;
CREATE TABLE public.orders (
    id integer NOT NULL,
    note text DEFAULT ') it''s', -- a :-)
    at timestamp with time zone DEFAULT now() NOT NULL,
    CONSTRAINT pos CHECK ((id > (0)::numeric))
)
PARTITION BY RANGE (at);
CREATE TABLE public.orders_2024 PARTITION OF public.orders FOR VALUES FROM ('2024-01-01') TO ('2025-01-01');
COPY public.orders (id, note) FROM stdin;
1\tit's
\\.
CREATE UNLOGGED TABLE IF NOT EXISTS public.people (
    name character varying(20)
);
"""
_SQLITE = """\
CREATE TABLE orders (id INTEGER PRIMARY KEY AUTOINCREMENT, note TEXT) STRICT;
CREATE TABLE people(name, PRIMARY KEY(name)) WITHOUT ROWID;
"""


@pytest.mark.parametrize(
    ("ddl", "tables"),
    [
        (_SQL_SERVER, {"dbo.Orders": ["Id", "Note (old)"], "dbo.People": ["Born"]}),
        (_POSTGRES, {"public.orders": ["id", "note", "at"], "public.people": ["name"]}),
        (_SQLITE, {"orders": ["id", "note"], "people": ["name"]}),
    ],
)
def test_dumps_are_read_around_what_sqlglot_does_not_know(ddl: str, tables: dict[str, list[str]]) -> None:
    source = from_ddl(ddl)
    assert {name: list(source.table(name).header) for name in source.names} == tables


@pytest.mark.parametrize(
    ("ddl", "types"),
    [
        (
            "CREATE TABLE [t]([a] [money], [b] [datetime2](7), [c] [smallmoney], [d] [smalldatetime]) ON [PRIMARY]\nGO",
            ["DOUBLE", "TIMESTAMP", "DOUBLE", "TIMESTAMP"],
        ),
        ("CREATE TABLE t (a NUMBER(10,2), b VARCHAR2(20 CHAR), c CLOB)", ["DECIMAL(18,3)", "VARCHAR", "VARCHAR"]),
        ("CREATE TABLE t (a money, b mood, c bigserial, d jsonb)", ["DOUBLE", "VARCHAR", "BIGINT", "VARCHAR"]),
        ("CREATE TABLE t (a year, b enum('x'), c INT UNSIGNED)", ["BIGINT", "VARCHAR", "BIGINT"]),
        ("CREATE TABLE t (a INT64, b STRING)", ["BIGINT", "VARCHAR"]),
        ("CREATE TABLE t (a mood, b HUGEINT)", ["VARCHAR", "BIGINT"]),
    ],
)
def test_types_are_read_by_the_dialect_that_knows_them(ddl: str, types: list[str]) -> None:
    table = from_ddl(ddl).table()
    assert [c.sql_type for c in table.columns] == types
    assert [c.type for c in table.columns] == ["real" if t not in ("VARCHAR", "TIMESTAMP") else "text" for t in types]


def test_a_script_in_utf_16(tmp_path: Path) -> None:
    path = tmp_path / "shop.sql"
    path.write_text(_SQL_SERVER, encoding="utf-16", newline="\r\n")
    assert open_source(ddl=str(path)).names == ("dbo.Orders", "dbo.People")
    path.write_bytes("CREATE TABLE größe (x INT)".encode("cp1252"))
    with pytest.raises(DataError, match=r"shop\.sql' is neither UTF-8 nor UTF-16 with its mark .*; convert it .*iconv"):
        open_source(ddl=str(path))


def test_a_partition_is_no_table_of_its_own() -> None:
    partition = "CREATE TABLE a_1 PARTITION OF a FOR VALUES FROM (1) TO (2)"
    assert from_ddl(f"CREATE TABLE a (x INT) PARTITION BY RANGE (x); {partition}").names == ("a",)


def test_a_table_that_no_dialect_reads_is_not_lost() -> None:
    with pytest.raises(DataError, match=r"'CREATE TABLE b \(y INT INT ,\)' does not parse .*; mend or remove it"):
        from_ddl("CREATE TABLE a (x INT);\nCREATE TABLE b (y INT INT ,);")


def test_several_create_tables_want_a_choice() -> None:
    source = from_ddl("CREATE TABLE a (x INT); CREATE TABLE b (y INT);")
    with pytest.raises(DataError, match="several tables, choose one with --table; there are: a, b"):
        source.table()
    with pytest.raises(DataError, match="no table 'c'; there are: a, b"):
        source.table("c")
    assert kinds(source.table("B")) == {"y": "real"}


def test_the_only_schema_of_a_dump_is_the_default_one() -> None:
    source = from_ddl("CREATE TABLE public.people (id INT); CREATE TABLE PUBLIC.pets (owner INT);")
    assert [t.path for t in source.database().tables] == [("public", "people"), ("PUBLIC", "pets")]
    assert source.table("People").sql_name() == source.table("public.people").sql_name() == "public.people"
    mixed = from_ddl("CREATE TABLE a (x INT); CREATE TABLE a.b (y INT);")
    assert [t.name for t in mixed.database().tables] == ["a"]


def test_tables_of_several_schemas_want_a_choice() -> None:
    source = from_ddl("CREATE TABLE sales.orders (id INT); CREATE TABLE staff.people (id INT);")
    with pytest.raises(DataError, match=r"--ddl: .*\(sales, staff\).* --table; there are: sales.orders, staff.people"):
        source.database()
    assert source.table("staff.people").path == ("staff", "people")
    with pytest.raises(DataError, match="no table 'people'"):
        source.table("people")


@pytest.mark.parametrize(
    ("ddl", "problem"),
    [
        ("", "the text is empty"),
        ("create table e ()", "table 'e' has no columns"),
        ("create table f as select 1", "table 'f' has no columns"),
        ("create table e (a int", "does not parse"),
        ("missing.sql", "neither CREATE TABLE text nor a file: 'missing.sql'"),
        ("CREATE TABLE a (x INT); CREATE TABLE A (y INT)", "two tables share a name"),
        ("x" * 100_000, "cannot be read|neither"),
    ],
)
def test_what_is_no_create_table_is_refused(ddl: str, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        open_source(ddl=ddl)


def test_create_table_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "create.sql"
    path.write_text("\ufeffCREATE TABLE t (a INT);\n", encoding="utf-8")
    assert kinds(open_source(ddl=str(path)).table()) == {"a": "real"}


def test_json_schemas(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"table": "fruit", "columns": [{"name": "a", "type": "BIGINT"}, {"name": "b"}]}')
    table = open_source(schema=path).table()
    assert (table.name, kinds(table), table.has_rows) == ("fruit", {"a": "real", "b": "text"}, False)
    wikisql = {
        "id": "1-1",
        "header": ["A\nb", "a b"],
        "types": ["real", "text"],
        "rows": [["1,100", "x"], ["n/a", None]],
    }
    table = from_json(wikisql, where="w").table("1-1")
    assert (table.header, kinds(table)) == (("A\nb", "a b"), {"A b": "real", "a b (2)": "text"})
    assert [list(r.values()) for r in table.content.data.to_pylist()] == [[1100.0, "x"], [None, None]]
    assert from_json([{"table": "a", **_ONE}, {"table": "b", **_ONE}], where="w").names == ("a", "b")


def test_a_number_too_large_for_a_float_is_lost() -> None:
    rows = [[10**400], [-(10**400)], [7]]
    content = from_json({"header": ["n"], "types": ["real"], "rows": rows}, where="w").table().content
    assert (content.data.column(0).to_pylist(), content.lost) == ([None, None, 7.0], 2)


_ONE = {"columns": [{"name": "x", "type": "text"}]}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"columns": []}, "table 'data' has no columns"),
        ({"header": [], "types": []}, "table 'data' has no columns"),
        (
            {"columns": [{"name": "a", "type": "wat"}]},
            "column 'a': type: text, real or an SQL type is wanted; got 'wat'",
        ),
        ({"columns": ["a"]}, "columns: a list of"),
        ({"header": ["a"], "types": []}, "two lists of texts of one length"),
        ({"header": ["a"], "types": ["text"], "rows": [["x", "y"]]}, "a list of lists of 1 cells"),
        ({"tabel": "x"}, r"got the keys \['tabel'\]"),
        ({"table": 3, **_ONE}, "table: a name is wanted; got 3"),
        (7, "got 7"),
        ([_ONE, _ONE], "two tables share a name"),
    ],
)
def test_a_json_schema_of_another_shape_is_refused(content: object, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        from_json(content, where="s.json").table()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """One file of each kind."""
    connection = duckdb.connect(str(tmp_path / "shop.duckdb"))
    connection.execute(
        'CREATE SCHEMA old; CREATE TABLE "My T" (id INT, "B\nc" DECIMAL(10,2), d DATE, h HUGEINT, l INT[], ok BOOLEAN);'
        "INSERT INTO \"My T\" VALUES (1, 2.5, DATE '2020-01-01', 5, [1], true), (NULL, NULL, NULL, NULL, NULL, NULL);"
        'CREATE TABLE old.u (x TEXT); CREATE VIEW v AS SELECT id FROM "My T";'
    )
    (tmp_path / "secret.txt").write_text("secret")
    connection.execute(f"CREATE VIEW spy AS SELECT * FROM read_text('{tmp_path / 'secret.txt'}')")
    connection.execute(f"COPY \"My T\" TO '{tmp_path / 'my.parquet'}'")
    connection.close()
    lite = sqlite3.connect(tmp_path / "shop.sqlite")
    lite.execute("CREATE TABLE u (a INTEGER, b, c TEXT, d DATE, e DECIMAL(4,1), f)")
    lite.execute("INSERT INTO u VALUES (1, 2, 'x', '2020-01-01', 2.5, 'q'), ('n/a', NULL, NULL, NULL, '1,000', 3)")
    lite.commit()
    lite.close()
    (tmp_path / "peaks [a-z]*?.csv").write_text(
        'Name,"Height, (m)",Code,\nK2,"8,611",007,a\nLhotse,8516,008,\n,\u22123.5,,\n', encoding="utf-8"
    )
    return tmp_path


def test_duckdb_files(files: Path) -> None:
    source = open_source(db=files / "shop.duckdb")
    assert source.names == ("My T", "spy", "v", "old.u")
    table = source.table("my t")
    assert kinds(table) == {"id": "real", "B c": "real", "d": "text", "h": "real", "l": "text", "ok": "text"}
    assert table.content.types == ("BIGINT", "DECIMAL(10,2)", "VARCHAR", "HUGEINT", "VARCHAR", "VARCHAR")
    assert table.sample_rows == [("1", "2.5", "2020-01-01", "5", "[1]", "true"), (None,) * 6]
    assert source.table("old.u").sql_name() == "old.u"
    assert source.table("v").sample_rows == [("1",), (None,)]


def test_a_view_cannot_reach_another_file(files: Path) -> None:
    with pytest.raises(DataError, match=r"'spy' cannot be read .*disabled by configuration"):
        open_source(db=files / "shop.duckdb").table("spy")


def test_a_duckdb_file_with_all_tables_in_one_schema(tmp_path: Path) -> None:
    path = tmp_path / "sales.duckdb"
    with duckdb.connect(str(path)) as connection:
        # DuckDB calls the catalog as the file, and so takes sales.orders for either.
        connection.execute("CREATE SCHEMA sales; CREATE TABLE sales.sales.orders AS SELECT 7 AS id")
    (table,) = open_source(db=path).database().tables
    assert (table.path, table.sample_rows) == (("sales", "orders"), [("7",)])


def test_a_database_leaves_out_what_cannot_be_opened(files: Path) -> None:
    database = open_source(db=files / "shop.duckdb").database()
    assert (database.name, [t.name for t in database.tables]) == ("shop", ["My T", "v"])
    (reason,) = database.left_out
    assert "table 'spy' cannot be read" in reason and "\n" not in reason

    lite = sqlite3.connect(files / "shop.sqlite")
    lite.execute("CREATE VIEW gone AS SELECT * FROM nowhere")
    lite.execute("PRAGMA writable_schema = ON")
    virtual = "CREATE VIRTUAL TABLE search USING nonsuch(x)"
    lite.execute("INSERT INTO sqlite_master VALUES ('table', 'search', 'search', 0, ?)", (virtual,))
    lite.commit()
    database = open_source(db=files / "shop.sqlite").database()
    assert [t.name for t in database.tables] == ["u"]
    gone, search = database.left_out
    assert "table 'gone' cannot be read (no such table: main.nowhere)" in gone
    assert "table 'search' cannot be read (no such module: nonsuch)" in search
    lite.execute("DELETE FROM sqlite_master WHERE name = 'u'")
    lite.commit()
    lite.close()
    with pytest.raises(DataError, match="table 'gone' cannot be read"):
        open_source(db=files / "shop.sqlite").database()


def test_all_tables_together_are_called_as_their_file(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert open_source(db=files / "my.parquet").database().name == "my"
    assert open_source(db=files / "shop.sqlite").where == str(files / "shop.sqlite")
    folder = files / "zoo"
    folder.mkdir()
    (folder / "pets.csv").write_text("a\n1\n")
    monkeypatch.chdir(folder)
    assert {open_source(db=given).database().name for given in (folder, ".", "../zoo")} == {"zoo"}
    assert from_ddl("CREATE TABLE a (x INT)").database().name == "--ddl"


def test_opening_changes_no_file(files: Path) -> None:
    before = {p: p.read_bytes() for p in files.iterdir()}
    for path in before:
        if path.suffix != ".txt":
            open_source(db=path).table("My T" if path.suffix == ".duckdb" else None).content  # noqa: B018
    assert {p: p.read_bytes() for p in files.iterdir()} == before


def test_sqlite_files(files: Path) -> None:
    table = open_source(db=files / "shop.sqlite").table()
    assert kinds(table) == {"a": "real", "b": "real", "c": "text", "d": "text", "e": "real", "f": "text"}
    assert [list(r.values()) for r in table.content.data.to_pylist()] == [
        [1.0, 2.0, "x", "2020-01-01", 2.5, "q"],
        [None, None, None, None, 1000.0, "3"],
    ]


@pytest.mark.parametrize(
    ("declared", "cells", "wanted"),
    [
        ("STRING", ["Lund", "7"], ["Lund", "7"]),
        ("BOOLEAN", [1, 0, None], [1.0, 0.0, None]),
        ("BOOLEAN", ["true", 0], ["true", "0"]),
        ("UUID", ["6f2c", None], ["6f2c", None]),
        ("JSON", ['{"a": 1}'], ['{"a": 1}']),
        ("MONEY", ["1,000", 3], [1000.0, 3.0]),
        ("STRING", [], []),
        ("INTEGER", ["n/a", 3, ""], [None, 3.0, None]),
        ("INTEGER", ["n/a", "", None], ["n/a", "", None]),
        ("INTEGER", ["", 3], [None, 3.0]),
        ("BOOLEAN", ["", None], ["", None]),
        ("NUMERIC", [], []),
    ],
)
def test_a_declared_type_of_sqlite_loses_no_text(
    tmp_path: Path, declared: str, cells: list[Any], wanted: list[Any]
) -> None:
    with closing(sqlite3.connect(tmp_path / "t.sqlite")) as lite:
        lite.execute(f"CREATE TABLE t (a {declared})")
        lite.executemany("INSERT INTO t VALUES (?)", [(cell,) for cell in cells])
        lite.commit()
    table = open_source(db=tmp_path / "t.sqlite").table()
    assert table.content.data.column(0).to_pylist() == wanted
    is_number = declared == "NUMERIC" or any(isinstance(cell, float) for cell in wanted)
    assert list(kinds(table).values()) == ["real" if is_number else "text"]


def test_csv_files(files: Path) -> None:
    table = open_source(db=files / "peaks [a-z]*?.csv").table()
    assert list(kinds(table).values()) == ["text", "real", "text", "text"]
    assert table.header[:3] == ("Name", "Height, (m)", "Code")
    rows = [list(r.values())[:3] for r in table.content.data.to_pylist()]
    assert rows == [["K2", 8611.0, "007"], ["Lhotse", 8516.0, "008"], [None, -3.5, None]]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        (["1", "-2.5", "+3", ".5", "1e3", "1,234,567.8", " 4 "], "real"),
        (["1", "", "2"], "real"),
        (["007"], "text"),
        (["1,23"], "text"),
        (["1", "n/a"], "real"),
        (["1", "no"], "text"),
        (["nan"], "text"),
        (["0x10"], "text"),
        ([""], "text"),
    ],
)
def test_which_csv_columns_are_numbers(tmp_path: Path, cells: list[str], kind: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text("n,other\n" + "".join(f'"{c}",a\n' for c in cells))
    table = open_source(db=path).table()
    assert table.columns[0].type == kind
    if kind == "real":
        numbers = table.content.data.column(0).to_pylist()
        assert [n is None for n in numbers] == [c in ("", "n/a") for c in cells]


def test_parquet_files(files: Path) -> None:
    table = open_source(db=files / "my.parquet").table()
    assert (table.name, table.content.types[:2]) == ("my", ("BIGINT", "DECIMAL(10,2)"))


def test_rows_run_under_another_name_ignoring_case(files: Path) -> None:
    table = open_source(db=files / "peaks [a-z]*?.csv").table()
    with SqlExecutor(workers=1) as executor:
        outcome = executor.run_one(table.database("t"), 'SELECT "Height, (m)" FROM t WHERE "Name" = \'lhotse\'')
    assert outcome.rows == ((8516.0,),), outcome.message


def test_a_csv_of_a_folder_is_copied_up_to_a_number_of_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others of the folder may be in memory too; the last row it would have alone does not decide on its type."""
    monkeypatch.setattr(user_tables, "MAX_ROWS", 3)
    path = tmp_path / "long.csv"
    path.write_text("n\n1\n2\n3\nfour\n")
    table = open_source(db=tmp_path).table()
    assert (table.content.data.num_rows, table.content.truncated) == (3, True)
    assert [c.type for c in table.columns] == ["real"]
    assert [c.type for c in open_source(db=path).table().columns] == ["text"]
    path.write_text("n\n1\n2\n3\n")
    assert not open_source(db=tmp_path).table().content.truncated
    monkeypatch.setattr(user_tables, "MAX_CELLS", 2)
    assert open_source(db=tmp_path).table().content.data.num_rows == 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_table_of_columns_is_copied_up_to_a_number_of_cells_while_its_texts_are_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 8)
    path = tmp_path / f"long{suffix}"
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT i, 'ten bytes ' AS s FROM range(5) r(i)) TO '{path}'")
    table = open_source(db=path).table()
    assert (table.alone.content.data.num_rows, table.alone.content.truncated) == (4, True)
    for first in (table.content, table.typed_content):
        assert (first.data.num_rows, first.truncated) == (2, True)  # may be joined with others
    joined = [table.part([0, 1], among=tables).typed_content for tables in (1, 2, 4)]
    assert [(content.data.num_rows, content.truncated) for content in joined] == [(4, True), (2, True), (2, True)]
    monkeypatch.setattr(user_tables, "MAX_CELLS", 10)
    assert not open_source(db=path).table().alone.content.truncated
    assert not open_source(db=path).table().part([0, 1], among=1).typed_content.truncated
    for module in (user_tables, csv_files):
        monkeypatch.setattr(module, "MAX_TEXT", 40)
    cut = open_source(db=path).table()
    for content in (cut.alone.content, cut.part([0, 1], among=1).typed_content):
        assert (content.data.num_rows, content.truncated) == (2 if suffix == ".csv" else 3, True)


def test_a_csv_of_too_many_bytes_is_copied_up_to_a_number_of_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Read 2,048 rows at a time: what it has beyond is not even read."""
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    path = tmp_path / "long.csv"
    path.write_text("n\n" + "1\n" * 5_000 + "two\n")
    assert open_source(db=path).table().alone.content.data.num_rows == 5_001
    monkeypatch.setattr(csv_files, "_MOST", 4_000)
    table = open_source(db=path).table()
    assert (table.alone.content.data.num_rows, table.alone.content.truncated) == (2, True)
    assert [c.type for c in table.columns] == ["real"]


def test_json_lines_are_copied_up_to_the_cap_with_the_types_of_all_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(user_tables, "MAX_ROWS", 2)
    monkeypatch.setattr(user_tables, "MAX_CELLS", 6)
    path = tmp_path / "long.jsonl"
    path.write_text("".join(f'{{"at": "2024-01-0{n}T10:00:00Z", "n": {n if n < 5 else 0.5}}}\n' for n in range(1, 6)))
    table = open_source(db=path).table()
    assert [c.sql_type for c in table.columns] == ["TIMESTAMP", "DOUBLE"]
    assert rows_of(table.alone) == [(f"2024-01-0{n} 10:00:00+00", n) for n in (1, 2, 3)]
    assert [n for _, n in rows_of(table, typed=True)] == [1, 2]
    assert table.content.truncated and table.typed_content.truncated


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("missing.csv", None, "no such file"),
        ("empty.csv", b"", "is empty"),
        (
            "thai.csv",
            b"a,b\n\xe9\x81,1\n",
            "not in UTF-8, nor in Windows-1252, which it looks like .*; convert it to UTF-8, .*iconv",
        ),
        ("unmarked.csv", "a,b\né,1\n".encode("utf-16-le"), "holds a NUL.*; convert it to UTF-8"),
        ("broken.csv.gz", b"a,b\n1,2\n", "cannot be unpacked"),
        ("cut.csv.gz", gzip.compress(b"a,b\n1,2\n", mtime=0)[:14], "cannot be (read|unpacked)"),
        ("broken.jsonl", b'{"a": 1}\n{"a": \n', "cannot be read as JSON lines: an object in each"),
        ("*.csv", None, "no such file; for several files give their folder"),
        ("titled.csv", b"Report\nname,age\nann,3\n", "remove lines that stand above the header"),
        ("broken.duckdb", b"12345678DUCK" + b"\0" * 5000, "cannot be opened as a DuckDB database"),
        ("broken.parquet", b"PAR1xx", "cannot be read as Parquet"),
        ("broken.db", b"SQLite format 3\0" + b"\1" * 3000, "cannot be read as a SQLite database"),
        ("book.xlsx", b"PK\3\4", "neither a DuckDB, SQLite or Parquet file"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=problem):
        open_source(db=tmp_path / name).table()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("suffix", ["csv", "csv.gz"])
def test_csv_in_other_encodings(tmp_path: Path, encoding: str, suffix: str) -> None:
    content = 'größe,Prix €\nJosé,"1,234"\n"Zoë\r\nB",2\n'.encode(encoding)
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == "csv.gz" else content)
    table = open_source(db=path).table()
    assert (table.name, table.header) == ("a", ("größe", "Prix €"))
    assert rows_of(table) == [("José", 1234), ("Zoë\r\nB", 2)]
    notes = asked_about(table, "sketch").notes_for('SELECT "größe" FROM t', ran=False)
    guessed = f"a.{suffix} is not in UTF-8 and was read as Windows-1252; where letters are wrong, convert it to UTF-8"
    assert notes == ((guessed,) if encoding == "cp1252" else ())


@pytest.mark.parametrize(
    ("codec", "named", "header", "cell"),
    [
        ("gb18030", "GB18030", ("姓名", "城市"), "上海"),
        ("cp932", "CP932", ("名前", "都市"), "さくら"),
        ("cp1251", "Windows-1251", ("имя", "город"), "Казань"),
    ],
)
def test_csv_of_another_script(tmp_path: Path, codec: str, named: str, header: tuple[str, str], cell: str) -> None:
    (tmp_path / "a.csv").write_bytes(f"{','.join(header)}\n{cell},3\n".encode(codec))
    table = open_source(db=tmp_path / "a.csv").table()
    assert (table.header, rows_of(table)) == (header, [(cell, 3)])
    assert table.remark.startswith(f"a.csv is not in UTF-8 and was read as {named};")


@pytest.mark.parametrize("name", ["people.jsonl", "people.ndjson", "people.jsonl.gz"])
def test_json_lines(tmp_path: Path, name: str) -> None:
    content = b'{"who": "Ann", "id": 12345678901234567890, "born": "2001-02-03"}\n{"who": "Bo", "tags": ["x"]}\n'
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    table = open_source(db=tmp_path / name).table()
    assert (table.name, kinds(table)) == ("people", {"who": "text", "id": "real", "born": "text", "tags": "text"})
    assert rows_of(table) == [("Ann", 12345678901234567890, "2001-02-03", None), ("Bo", None, None, "[x]")]


def test_a_packed_csv_of_a_folder_is_a_table(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,age\nAnn,3\n")
    (tmp_path / "pets.csv.gz").write_bytes(gzip.compress(b"pet\nRex\n"))
    (tmp_path / "notes.txt.gz").write_bytes(gzip.compress(b"words\n"))
    source = open_source(db=tmp_path)
    assert source.names == ("people", "pets")
    assert rows_of(source.table("pets")) == [("Rex",)]
    (tmp_path / "people.csv.gz").write_bytes(gzip.compress(b"name\nBo\n"))
    with pytest.raises(DataError, match=r"two tables share a name among people\.csv, people\.csv\.gz"):
        open_source(db=tmp_path)


def test_a_folder_of_folders_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"without CSV or Parquet files$"):
        open_source(db=tmp_path)
    (tmp_path / "year=2024").mkdir()
    with pytest.raises(DataError, match=r"such as year=2024, are not looked into.*COPY \(FROM") as error:
        open_source(db=tmp_path)
    (copy,) = re.findall(r"COPY .*parquet'", str(error.value))
    with duckdb.connect() as db:
        db.execute(f"COPY (SELECT 1 AS id) TO '{tmp_path}/year=2024/part.parquet'")
        one = tmp_path / "one.parquet"
        db.execute(copy.replace("FOLDER", str(tmp_path)).replace("one.parquet", str(one)))
    assert rows_of(open_source(db=one).table()) == [(1, 2024)]


def test_one_bad_file_of_a_folder_leaves_the_others(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,age\nAnn,3\n")
    (tmp_path / "bad.csv").write_bytes(b"a,b\n\xe9\x81,1\n")
    (tmp_path / "worse.parquet").write_bytes(b"PAR1xx")
    source = open_source(db=tmp_path)
    assert source.names == ("bad", "people", "worse")
    assert rows_of(source.table("people")) == [("Ann", 3)]
    database = source.database()
    assert [t.name for t in database.tables] == ["people"]
    assert [line.partition(" ")[0] for line in database.left_out] == [
        str(tmp_path / n) for n in ("bad.csv", "worse.parquet")
    ]
    with pytest.raises(DataError, match=r"bad\.csv is not in UTF-8"):
        source.table("bad")
    (tmp_path / "People.parquet").write_bytes(b"PAR1xx")
    with pytest.raises(DataError, match=r"two tables share a name among .*People\.parquet.*people\.csv"):
        open_source(db=tmp_path)


def test_a_database_that_this_process_has_open(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "shop.duckdb") as connection:
        connection.execute(
            "SET TimeZone = 'Europe/Oslo'; CREATE TABLE t AS SELECT 7 AS n, TIMESTAMPTZ '2024-01-01 00:00Z' AS at"
        )
        with pytest.raises(
            DataError, match="this process has it open: close that connection, or ask about the connect"
        ):
            as_table(tmp_path / "shop.duckdb")
        table = as_table(connection, "t")
        assert rows_of(table) == [(7, "2024-01-01 00:00:00+00")]
        connection.execute("CREATE TABLE u AS SELECT 8 AS n")
        database = as_asked(connection, many=True)
        assert isinstance(database, user_tables.UserDatabase) and [t.name for t in database.tables] == ["t", "u"]
        assert connection.execute("SELECT current_setting('TimeZone')").fetchall() == [("Europe/Oslo",)]
    with pytest.raises(DataError, match=r"connection cannot be read .*; give an open one"):
        as_table(connection)


def test_a_database_that_another_process_has_open(tmp_path: Path) -> None:
    path = tmp_path / "shop.duckdb"
    code = f"import duckdb; c = duckdb.connect({str(path)!r}); print(1, flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline()
        with pytest.raises(DataError, match="another process has it open: close it there, or copy the file"):
            as_table(path)
        other.communicate(b"\n")


def test_periods_and_intervals_of_a_frame_are_the_text_that_pandas_writes() -> None:
    frame = pd.DataFrame({"n": [1.0, 5.0, 19.0]})
    frame["quarter"] = pd.PeriodIndex(["2024Q1", None, "2024Q3"], freq="Q")
    frame["bin"] = pd.cut(frame["n"], [0, 3, 6])
    table = as_table(frame)
    assert kinds(table) == {"n": "real", "quarter": "text", "bin": "text"}
    assert rows_of(table) == [(1.0, "2024Q1", "(0, 3]"), (5.0, None, "(3, 6]"), (19.0, "2024Q3", None)]
    assert rows_of(as_table(frame.groupby("quarter")[["n"]].sum())) == [(1.0, "2024Q1"), (19.0, "2024Q3")]
    assert rows_of(as_table(frame[["quarter", "bin"]][:0])) == []


def test_the_shadow_tables_of_a_full_text_table_are_none_of_the_user_s(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE VIRTUAL TABLE notes USING fts5(title, body); INSERT INTO notes VALUES ('hi', 'there')"
        )
        connection.commit()
    source = open_source(db=path)
    assert source.names == ("notes",)
    assert rows_of(source.table()) == [("hi", "there")]


def test_frames_that_are_no_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="columns called 'a'; rename all but one"):
        as_table(pd.DataFrame([[1, 2]], columns=["a", "a"]))
    with pytest.raises(DataError, match=r"got one column, a Series; give its to_frame\(\)"):
        as_table(pd.Series([1, 2], name="a"))
    with pytest.raises(DataError, match=r"whole numbers have 64 bits; turn larger ones into decimal\.Decimal or text"):
        as_table(pd.DataFrame({"n": [2**70]}))
    assert rows_of(as_table(pd.DataFrame({"n": [Decimal(2**70)]}))) == [(2**70,)]
    for nothing in (None, 5, b"x"):
        for many in (False, True):
            with pytest.raises(
                DataError, match="a table, schema, path, data frame or DuckDB connection is wanted; got "
            ):
                as_asked(nothing, many=many)


def test_a_folder_and_a_database_without_tables(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder"):
        open_source(db=tmp_path)
    duckdb.connect(str(tmp_path / "empty.duckdb")).close()
    with pytest.raises(DataError, match="there is no table"):
        open_source(db=tmp_path / "empty.duckdb").table()


def test_a_csv_of_a_header_alone_has_columns_and_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "h.csv"
    path.write_text("a,b\n")
    table = open_source(db=path).table()
    assert (list(kinds(table)), table.content.data.num_rows) == (["a", "b"], 0)


def test_exactly_one_source_is_wanted() -> None:
    with pytest.raises(DataError, match="exactly one of --ddl, --schema, --db; got none"):
        open_source()
    with pytest.raises(DataError, match="got --ddl and --db"):
        open_source(ddl="CREATE TABLE a (b INT)", db="x.csv")


def test_what_a_notebook_has_at_hand(files: Path) -> None:
    frame = as_table(pa.table({"a": [1, 2], "b": ["x", None]}), "frame")
    assert (frame.name, kinds(frame), frame.content.data.num_rows) == ("frame", {"a": "real", "b": "text"}, 2)
    assert as_table(frame) is frame
    assert kinds(as_table("CREATE TABLE a (b INT)")) == {"b": "real"}
    assert as_table(str(files / "shop.duckdb"), "v").name == "v"
    schema = files / "s.json"
    schema.write_text(json.dumps(_ONE))
    assert kinds(as_table(schema)) == kinds(as_table(_ONE)) == {"x": "text"}
    with pytest.raises(DataError, match="got int"):
        as_table(7)


def test_a_schema_alone_has_no_rows_and_says_so() -> None:
    table = from_ddl("CREATE TABLE a (b INT)").table()
    assert table.sample_rows is None
    with pytest.raises(DataError, match="only a schema"):
        table.content  # noqa: B018


def test_the_schema_reads_back_from_its_own_text(files: Path) -> None:
    table = open_source(db=files / "shop.duckdb").table("My T")
    text = table.create_table()
    assert kinds(from_ddl(text).table()) == kinds(table)
    shown = ['"id" BIGINT', '"B\nc" DECIMAL(10,2)', '"d" DATE', '"h" HUGEINT', '"l" VARCHAR', '"ok" BOOLEAN']
    assert text == 'CREATE TABLE "My T" (\n  ' + ",\n  ".join(shown) + "\n)"


def rows_of(table: user_tables.UserTable, *, typed: bool = False) -> list[tuple[Any, ...]]:
    content = table.typed_content if typed else table.content
    return [tuple(row.values()) for row in content.data.to_pylist()]


def test_generated_columns_of_sqlite_keep_their_places(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "shop.db")) as db:
        db.execute(
            "CREATE TABLE s (price REAL, vat REAL GENERATED ALWAYS AS (price * 0.25), city TEXT, "
            "double REAL GENERATED ALWAYS AS (price * 2) STORED, qty INTEGER)"
        )
        db.execute("INSERT INTO s (price, city, qty) VALUES (10, 'Oslo', 3)")
        db.commit()
    table = open_source(db=tmp_path / "shop.db").table()
    assert table.header == ("price", "vat", "city", "double", "qty")
    assert rows_of(table) == [(10.0, 2.5, "Oslo", 20.0, 3)]


def test_a_float_is_the_decimal_that_it_is_shown_as(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "f.duckdb") as db:
        db.execute("CREATE TABLE f AS SELECT unnest([0.1, 1e20, NULL, 'nan'])::FLOAT AS x")
    given = [open_source(db=tmp_path / "f.duckdb").table(), as_table(pa.table({"x": pa.array([0.1], pa.float32())}))]
    for table in given:
        for typed in (False, True):
            assert rows_of(table, typed=typed)[0] == (0.1,)
    assert rows_of(given[0])[1:3] == [(1e20,), (None,)]
    with SqlExecutor(workers=1) as executor:
        outcome = executor.run_one(given[0].database("t"), "SELECT COUNT(*) FROM t WHERE x = 0.1")
    assert outcome.rows == ((1,),)


@pytest.mark.parametrize("kind", ["sqlite", "csv"])
def test_whole_numbers_stay_exact(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"ids.{kind}"
    if kind == "csv":
        path.write_text("id,half\n9007199254740993,0.5\n9007199254740992,\n")
    else:
        with closing(sqlite3.connect(path)) as db:
            db.execute("CREATE TABLE ids (id INTEGER, half REAL)")
            db.execute("INSERT INTO ids VALUES (9007199254740993, 0.5), (9007199254740992, NULL)")
            db.commit()
    table = open_source(db=path).table()
    assert rows_of(table) == [(9007199254740993, 0.5), (9007199254740992, None)]
    with SqlExecutor(workers=1) as executor:
        outcome = executor.run_one(table.database("t"), "SELECT COUNT(*) FROM t WHERE id = 9007199254740993")
    assert outcome.rows == ((1,),)


_WIDE = [1234567890123456789, 1234567890123456790, 18446744073709551615, 10**38 - 1]


@pytest.mark.parametrize(
    ("kind", "cells"),
    [
        ("csv", _WIDE),
        ("csv", _WIDE[:2]),
        ("parquet", _WIDE[:3]),
        ("duckdb", _WIDE),
        ("sqlite", _WIDE[:2]),
        ("frame", _WIDE[:3]),
    ],
)
@pytest.mark.parametrize("typed", [False, True])
def test_whole_numbers_of_up_to_38_digits_stay_exact(tmp_path: Path, kind: str, cells: list[int], typed: bool) -> None:
    path = tmp_path / f"ids.{kind}"
    if kind == "csv":
        path.write_text("id\n" + "".join(f"{cell}\n" for cell in cells))
    elif kind == "parquet":
        pq.write_table(pa.table({"id": pa.array(cells, pa.uint64())}), path)
    elif kind == "duckdb":
        with duckdb.connect(path) as db:
            db.execute(f"CREATE TABLE ids AS SELECT unnest({cells}::HUGEINT[]) AS id")
    elif kind == "sqlite":
        with closing(sqlite3.connect(path)) as lite:
            lite.execute("CREATE TABLE ids (id INTEGER)")
            lite.executemany("INSERT INTO ids VALUES (?)", [(cell,) for cell in cells])
            lite.commit()
    frame = pa.table({"id": pa.array(cells, pa.uint64())}) if kind == "frame" else None
    table = open_source(db=path).table() if frame is None else as_table(frame)
    assert kinds(table) == {"id": "real"}
    database = table.database("t", typed=typed)
    with SqlExecutor(workers=1) as executor:
        every = executor.run_one(database, "SELECT id FROM t")
        one = executor.run_one(database, f"SELECT COUNT(*) FROM t WHERE id = {cells[1]}")
    assert (every.rows, one.rows) == (tuple((cell,) for cell in cells), ((1,),)), every.message
    assert all(type(cell) is int for (cell,) in every.rows)
    assert table.sample_rows == [(str(cell),) for cell in cells]


def test_a_number_of_39_digits_is_never_rounded(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "h.duckdb") as db:
        db.execute("CREATE TABLE h AS SELECT 170141183460469231731687303715884105727::HUGEINT AS x")
    with pytest.raises(DataError, match=r"table 'h' cannot be read .*170141183460469231731687303715884105727"):
        open_source(db=tmp_path / "h.duckdb").table().content  # noqa: B018


def test_line_breaks_in_quoted_cells_of_a_csv(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('name,street,n\nAnn,"1 Road\nTown",3\nBo,z,4\nCy,short\n')
    assert rows_of(open_source(db=tmp_path / "a.csv").table()) == [
        ("Ann", "1 Road\nTown", 3), ("Bo", "z", 4), ("Cy", "short", None),
    ]  # fmt: skip


def test_a_row_with_more_cells_than_the_header_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cities.csv"
    path.write_text("city,people\nOslo,700\nBergen, Norway,290\nVoss,14\n")
    with pytest.raises(DataError, match=r"row 2 below the header has more cells than the header's 2: 'Bergen', "):
        open_source(db=path)
    path.write_text("city;people\nOslo;700\nBergen;290;\nVoss;14;\n")
    table = open_source(db=path).table()
    assert (table.header, rows_of(table)[1]) == (("city", "people"), ("Bergen", 290))
    path.write_text("column1,column2\nOslo,700\n")
    assert open_source(db=path).table().header == ("column1", "column2")


def test_folders_called_as_partitions_add_no_column(tmp_path: Path) -> None:
    folder = tmp_path / "year=2024"
    folder.mkdir()
    (folder / "a.csv").write_text("name,n\nAnn,1\n")
    duckdb.sql("SELECT 1 AS n").write_parquet(str(folder / "b.parquet"))
    assert open_source(db=folder / "a.csv").table().header == ("name", "n")
    assert open_source(db=folder / "b.parquet").table().header == ("n",)


def test_an_empty_csv_is_seen_without_reading_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_text("name\nAnn\n")
    monkeypatch.setattr(Path, "read_bytes", None)
    assert open_source(db=tmp_path / "a.csv").table().header == ("name",)


def test_what_cannot_become_a_table_says_so(tmp_path: Path) -> None:
    class Frame:
        def __arrow_c_stream__(self, schema: object = None) -> object:
            raise pa.ArrowInvalid("Could not convert 'x' with type str: tried to convert to int64")

    with pytest.raises(DataError, match=r"data frame cannot be read .*Could not convert 'x'.*turn that column"):
        as_table(Frame())
    wide = pa.table({"a": pa.array([1], pa.decimal256(60, 2))})
    with pytest.raises(DataError, match=r"table 'data' cannot be read .*a decimal256\(60, 2\)"):
        as_table(wide)


def test_a_database_whose_name_is_not_utf8(tmp_path: Path) -> None:
    duckdb.connect(tmp_path / "x.duckdb").close()
    name = (tmp_path / "x.duckdb").rename(tmp_path / "caf\udce9.duckdb")
    with pytest.raises(DataError, match=r"rename the file"):
        open_source(db=name)


def test_dates_that_python_does_not_have_are_no_samples(tmp_path: Path) -> None:
    with duckdb.connect(tmp_path / "d.duckdb") as db:
        db.execute("CREATE TABLE d AS SELECT * FROM (VALUES (DATE 'infinity', 1), (DATE '2024-01-02', 2)) AS v(day, n)")
    samples = open_source(db=tmp_path / "d.duckdb").table().typed_sample_rows
    assert samples is not None and [(str(day), n) for day, n in samples] == [("None", 1), ("2024-01-02", 2)]
