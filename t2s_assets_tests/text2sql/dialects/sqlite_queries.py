"""Queries as people ask them of SQLite: some written by hand, others drawn, over data that SQLite lets in."""

from __future__ import annotations

import random
import sqlite3

import duckdb

from t2s_assets.text2sql.schema import Column, TableSchema

SCHEMAS = [
    TableSchema(
        "student",
        (
            Column("id", "real", "BIGINT"),
            Column("name", "text", "VARCHAR"),
            Column("dept_id", "real", "BIGINT"),
            Column("dept_name", "text", "VARCHAR"),
            Column("gpa", "real", "DOUBLE"),
            Column("code", "text", "VARCHAR"),
            Column("zip", "text", "VARCHAR"),
            Column("born", "text", "VARCHAR"),
            Column("joined", "text", "VARCHAR"),
        ),
    ),
    TableSchema(
        "course",
        (
            Column("id", "real", "BIGINT"),
            Column("title", "text", "VARCHAR"),
            Column("credits", "real", "BIGINT"),
            Column("starts", "text", "VARCHAR"),
        ),
    ),
    TableSchema(
        "takes",
        (
            Column("student_id", "real", "BIGINT"),
            Column("course_id", "real", "BIGINT"),
            Column("grade", "real", "BIGINT"),
            Column("points", "real", "DOUBLE"),
        ),
    ),
]
ROWS: dict[str, list[tuple[object, ...]]] = {
    "student": [
        (1, "Ann", 1, "Math", 3.5, "12", "1010", "2001-05-17", "2019-09-01 08:30:00"),
        (2, "bob", 1, "Math", 2.25, "12abc", "2020", "1999-12-31", "2018-09-01 23:59:59"),
        (3, "Cy", 2, "Physics", None, "abc", "303", "", "2020-02-29 00:00:00"),
        (4, None, 2, "Physics", 4.0, "", "1010", None, None),
        (5, "Dee", 3, None, 0.5, None, "44", "unknown", "2019-09-02 12:00:00"),
        (6, "Ann", None, None, 3.5, "-7.5", "9", "2002-01-01", "2018-01-01 00:00:00"),
        (7, "Eve", 3, None, 1.75, " 8", "2020", "2001-11-05", "2020-12-31 10:00:00"),
    ],
    "course": [
        (1, "Algebra", 10, "2020-09-01"),
        (2, "Optics", 5, "2021-01-15"),
        (3, "algebra II", 7, "2021-09-01"),
        (4, "Poetry", None, "2020-09-01"),
    ],
    "takes": [
        (1, 1, 90, 9.5),
        (1, 2, 85, 8.0),
        (2, 1, 70, 7.25),
        (3, 3, None, None),
        (3, 1, 55, 5.5),
        (5, 2, 100, 10.0),
        (7, 1, 70, 7.25),
        (None, 4, 60, 6.0),
    ],
}
_OF_SQLITE = {"BIGINT": "INTEGER", "DOUBLE": "REAL", "VARCHAR": "TEXT"}


def databases() -> tuple[sqlite3.Connection, duckdb.DuckDBPyConnection]:
    """The same tables in SQLite and in DuckDB."""
    lite, duck = sqlite3.connect(":memory:"), duckdb.connect()
    for schema in SCHEMAS:
        for engine, names in ((lite, _OF_SQLITE), (duck, {})):
            columns = ", ".join(f'"{c.name}" {names.get(c.sql_type, c.sql_type)}' for c in schema.columns)
            engine.execute(f"CREATE TABLE {schema.name} ({columns})")
            places = ", ".join("?" for _ in schema.columns)
            engine.executemany(f"INSERT INTO {schema.name} VALUES ({places})", ROWS[schema.name])
    return lite, duck


WRITTEN = [
    # Joins that are grouped by a key, with columns of its table.
    "SELECT T1.name, COUNT(*) FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id GROUP BY T1.id",
    "SELECT T1.name, COUNT(*) FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id GROUP BY T2.student_id",
    "SELECT T2.title, AVG(T1.grade) FROM takes AS T1 JOIN course AS T2 ON T1.course_id = T2.id GROUP BY T1.course_id",
    "SELECT T1.name, T1.gpa FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id GROUP BY T1.id "
    "HAVING COUNT(*) >= 2",
    "SELECT T1.title FROM course AS T1 JOIN takes AS T2 ON T1.id = T2.course_id GROUP BY T2.course_id "
    "ORDER BY COUNT(*) DESC LIMIT 1",
    "SELECT T1.id, T1.name FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id GROUP BY T1.id "
    "ORDER BY SUM(T2.points) DESC, T1.name LIMIT 2",
    "SELECT dept_name, COUNT(*) FROM student GROUP BY dept_id",
    "SELECT dept_name FROM student GROUP BY dept_id HAVING COUNT(*) > 1 ORDER BY dept_name",
    "SELECT COUNT(*), dept_name FROM student WHERE dept_id > 0 GROUP BY dept_id ORDER BY COUNT(*) DESC, dept_id",
    "SELECT name, COUNT(*) FROM student GROUP BY dept_id",
    "SELECT T1.* FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id GROUP BY T1.id",
    "SELECT * FROM course GROUP BY id",
    "SELECT UPPER(T1.name), MAX(T2.grade) FROM student T1 JOIN takes T2 ON T1.id = T2.student_id GROUP BY T1.id",
    "SELECT title FROM course WHERE id IN (SELECT course_id FROM takes GROUP BY course_id HAVING COUNT(*) > 1)",
    "SELECT x.name FROM (SELECT T1.name, COUNT(*) AS n FROM student T1 JOIN takes T2 ON T1.id = T2.student_id "
    "GROUP BY T1.id) AS x WHERE x.n > 1",
    # The row of the extreme.
    "SELECT title, MAX(credits) FROM course",
    "SELECT title, MIN(credits) FROM course",
    "SELECT name, MAX(gpa) FROM student",
    "SELECT name, MIN(born) FROM student WHERE born > '1'",
    "SELECT student_id, MAX(grade) FROM takes GROUP BY course_id",
    "SELECT title, MAX(credits), COUNT(*) FROM course WHERE credits < 10",
    "SELECT name, MAX(gpa) FROM student WHERE gpa < 3",
    # Dates.
    "SELECT COUNT(*) FROM student WHERE STRFTIME('%Y', born) = '2001'",
    "SELECT name FROM student WHERE STRFTIME('%Y', joined) = '2018' ORDER BY id",
    "SELECT STRFTIME('%Y', born) - 5 FROM student ORDER BY id",
    "SELECT STRFTIME('%Y', joined) - STRFTIME('%Y', born) AS age FROM student ORDER BY id",
    "SELECT (STRFTIME('%Y', joined) - STRFTIME('%Y', born)) / 2 FROM student ORDER BY id",
    "SELECT STRFTIME('%Y', joined), COUNT(*) FROM student GROUP BY STRFTIME('%Y', joined) ORDER BY 1",
    "SELECT name FROM student WHERE STRFTIME('%Y', born) = 2001",
    "SELECT DATE(joined) FROM student ORDER BY id",
    "SELECT DATE(born) FROM student ORDER BY id",
    "SELECT TIME(joined) FROM student ORDER BY id",
    "SELECT name FROM student WHERE born BETWEEN '2000-01-01' AND '2001-12-31' ORDER BY id",
    "SELECT CAST(STRFTIME('%m', starts) AS INTEGER) FROM course ORDER BY id",
    "SELECT CAST(STRFTIME('%s', joined) AS INTEGER) FROM student ORDER BY id",
    "SELECT STRFTIME('%s', joined) - STRFTIME('%s', born) FROM student ORDER BY id",
    "SELECT JULIANDAY(starts) - JULIANDAY('2020-01-01') FROM course ORDER BY id",
    "SELECT SUBSTR(born, 1, 4) FROM student WHERE SUBSTR(born, 1, 4) >= '2000' ORDER BY id",
    "SELECT name FROM student WHERE SUBSTR(born, 1, 4) = 2001",
    "SELECT CAST(SUBSTR(born, 1, 4) AS INTEGER) FROM student ORDER BY id",
    "SELECT STRFTIME('%Y', MAX(born)), JULIANDAY(MAX(joined)) - JULIANDAY(MIN(joined)) FROM student",
    "SELECT dept_id, STRFTIME('%Y', MIN(joined)) FROM student GROUP BY dept_id",
    "SELECT STRFTIME('%Y', joined) - STRFTIME('%Y', (SELECT MIN(starts) FROM course)) FROM student ORDER BY id",
    "SELECT STRFTIME('%Y', d) FROM (SELECT joined AS d FROM student) AS x WHERE STRFTIME('%m', x.d) > '05'",
    "WITH x AS (SELECT id, zip AS z FROM student) SELECT z + 1, CAST(z AS INTEGER) / 10 FROM x ORDER BY id",
    "SELECT CAST(MAX(code) AS INTEGER) FROM student",
    # Text and numbers.
    "SELECT CAST(code AS INTEGER) FROM student ORDER BY id",
    "SELECT CAST(code AS REAL) FROM student ORDER BY id",
    "SELECT CAST(zip AS INTEGER) / 10 FROM student ORDER BY id",
    "SELECT name FROM student WHERE code > 9 ORDER BY id",
    "SELECT name FROM student WHERE zip = 1010 ORDER BY id",
    "SELECT name FROM student WHERE zip IN (1010, 9) ORDER BY id",
    "SELECT name FROM student WHERE zip BETWEEN 10 AND 30 ORDER BY id",
    "SELECT title FROM course WHERE credits = '10'",
    "SELECT title FROM course WHERE credits IN ('5', '7') ORDER BY id",
    "SELECT title FROM course WHERE credits > 'abc'",
    "SELECT title FROM course WHERE credits LIKE '1%'",
    "SELECT name FROM student WHERE gpa LIKE '3%' ORDER BY id",
    "SELECT SUM(code), AVG(code) FROM student",
    "SELECT SUM(zip), AVG(zip), MAX(zip) FROM student",
    "SELECT SUM(zip) / COUNT(*) FROM student",
    "SELECT zip + 1, zip * 2, -zip FROM student ORDER BY id",
    "SELECT code + 1 FROM student ORDER BY id",
    "SELECT code / 2 FROM student",
    "SELECT zip / 2 FROM student ORDER BY id",
    "SELECT T1.name FROM student AS T1 JOIN takes AS T2 ON T1.zip = T2.grade",
    "SELECT LENGTH(credits), SUBSTR(credits, 1, 1) FROM course ORDER BY id",
    "SELECT name || ' ' || id FROM student ORDER BY id",
    "SELECT name || gpa FROM student ORDER BY id",
    "SELECT SUM(CAST(REPLACE(code, 'abc', '') AS REAL)) FROM student",
    "SELECT CAST(REPLACE(REPLACE(code, 'a', ''), 'bc', '') AS INTEGER) FROM student ORDER BY id",
    "SELECT REPLACE(code, 'abc', '0') + 1, LENGTH(REPLACE(code, 'a', '')) FROM student ORDER BY id",
    "SELECT name FROM student WHERE name COLLATE NOCASE = 'BOB'",
    "SELECT name FROM student WHERE dept_id NOT IN (SELECT zip FROM student WHERE zip IS NOT NULL) ORDER BY id",
    "SELECT name FROM student WHERE id IN (SELECT zip FROM student) ORDER BY id",
    "SELECT name FROM student WHERE zip IN (SELECT id + 2 FROM course UNION SELECT 9)",
    "SELECT name FROM student WHERE zip IN (SELECT student_id + 2 FROM takes) ORDER BY id",
    "SELECT name FROM student WHERE code IN (SELECT COUNT(*) + 9 FROM takes GROUP BY course_id)",
    "SELECT name FROM student WHERE id IN (SELECT zip FROM student ORDER BY 1 LIMIT 5)",
    "SELECT title FROM course WHERE credits IN (SELECT code FROM student)",
    "SELECT COALESCE(name, 0) FROM student",
    "SELECT IIF(gpa > 3, 'good', 0) FROM student",
    # Functions, names and shares.
    "SELECT COUNT(*) FILTER (WHERE gpa > 3), MAX(gpa) FILTER (WHERE dept_name = 'Math') FROM student",
    "SELECT dept_name, COUNT(*) FILTER (WHERE gpa > 3) FROM student GROUP BY dept_name",
    "SELECT TOTAL(grade), TOTAL(points) / 2 FROM takes",
    "SELECT PRINTF('%.2f', gpa) FROM student",
    "SELECT HEX(name) FROM student",
    "SELECT title FROM course WHERE title GLOB 'A*'",
    "SELECT title FROM course WHERE title LIKE 'a%' ORDER BY id",
    "SELECT COUNT(*) FROM main.student",
    "SELECT main.course.title FROM main.course ORDER BY main.course.id",
    "SELECT CAST(SUM(CASE WHEN grade > 80 THEN 1 ELSE 0 END) AS REAL) * 100 / COUNT(*) FROM takes",
    "SELECT CAST(COUNT(CASE WHEN dept_name = 'Math' THEN id END) AS REAL) / COUNT(id) FROM student",
    "SELECT SUM(dept_name = 'Math') * 100.0 / COUNT(*) FROM student",
    "SELECT AVG(grade > 80) FROM takes",
    "SELECT SUM(IIF(gpa > 3, 1, 0)) * 1.0 / COUNT(*) FROM student",
    "SELECT dept_name, AVG(gpa) FROM student GROUP BY dept_name HAVING AVG(gpa) > 1 ORDER BY AVG(gpa) DESC",
    "SELECT name FROM student WHERE gpa = (SELECT MAX(gpa) FROM student)",
    "SELECT name FROM student WHERE id NOT IN (SELECT student_id FROM takes WHERE student_id IS NOT NULL) ORDER BY id",
    "SELECT title FROM course EXCEPT SELECT T2.title FROM takes T1 JOIN course T2 ON T1.course_id = T2.id",
    "SELECT COUNT(DISTINCT dept_name) FROM student",
    "SELECT name, gpa FROM student ORDER BY gpa DESC, id LIMIT 3",
    "SELECT AVG(grade), MIN(grade), MAX(grade) FROM takes",
]
"""As Spider's and BIRD's are; none is of them."""


def drawn(draw: random.Random) -> str:
    """One query at random."""
    return _Draw(draw).query()


class _Draw:
    def __init__(self, draw: random.Random) -> None:
        self._draw = draw

    def _one(self, *of: str) -> str:
        return self._draw.choice(of)

    def query(self) -> str:
        return self._draw.choice(
            (self._plain, self._plain, self._grouped, self._grouped, self._extreme, self._nested)
        )()

    def _where(self, q: str = "") -> str:
        tests = " AND ".join(self._test(q) for _ in range(self._draw.randint(0, 2)))
        return f" WHERE {tests}" if tests else ""

    def _plain(self) -> str:
        values = ", ".join(self._value() for _ in range(self._draw.randint(1, 2)))
        return f"SELECT id, {values} FROM student{self._where()} ORDER BY id"

    def _grouped(self) -> str:
        aggregate = self._aggregate("T1.", "T2.")
        bare = self._one("T1.name", "T1.dept_name", "T1.gpa", "T1.id", "T2.course_id", "T1.code", "UPPER(T1.name)")
        key = self._one("T1.id", "T2.student_id", "T1.dept_id", "T1.name", "T2.course_id", "STRFTIME('%Y', T1.joined)")
        having = self._one("", "", f" HAVING {self._aggregate('T1.', 'T2.')} > 1", " HAVING COUNT(*) > 1")
        return (
            f"SELECT {bare}, {aggregate} FROM student AS T1 JOIN takes AS T2 ON T1.id = T2.student_id"
            f"{self._where('T1.')} GROUP BY {key}{having}"
        )

    def _extreme(self) -> str:
        group = self._one("", "", " GROUP BY dept_id", " GROUP BY dept_name")
        which = self._one("MAX(gpa)", "MIN(gpa)", "MAX(born)", "MIN(code)", "MAX(id)", "COUNT(*)", "MIN(id), MAX(id)")
        bare = self._one("name", "dept_name", "code, name", "zip + 1")
        return f"SELECT {bare}, {which} FROM student{self._where()}{group}"

    def _nested(self) -> str:
        return self._one(
            f"SELECT COUNT(*) FROM ({self._grouped()}) AS g",
            f"SELECT name FROM student WHERE id IN (SELECT student_id FROM takes GROUP BY student_id HAVING "
            f"{self._one('COUNT(*) > 1', 'AVG(grade) > 60', 'SUM(points) / COUNT(*) > 6')}) ORDER BY id",
            f"SELECT v + 1, v FROM (SELECT {self._value()} AS v, id FROM student) AS x ORDER BY x.id",
            f"SELECT x.id FROM (SELECT {self._value()} AS v, id FROM student) AS x WHERE v {self._operator()} "
            f"{self._literal()} ORDER BY x.id",
            f"SELECT {self._value()} FROM student UNION SELECT {self._value()} FROM student",
            f"SELECT dept_id, {self._aggregate('', '')} FROM student GROUP BY dept_id ORDER BY dept_id",
        )

    def _operator(self) -> str:
        return self._one("=", "<>", ">", "<", ">=", "<=")

    def _literal(self) -> str:
        return self._one("9", "12", "2001", "3.5", "-7.5", "'12'", "'abc'", "'3.5'", "''", "'2001'", "NULL", "1010")

    def _test(self, q: str) -> str:
        column = q + self._one("id", "name", "dept_id", "gpa", "code", "zip", "born", "dept_name")
        value = column if self._draw.random() < 0.7 else self._value(q)
        return self._one(
            f"{value} {self._operator()} {self._literal()}",
            f"{value} {self._operator()} {self._value(q)}",
            f"{column} LIKE '{self._one('a%', '%1%', '%2', '_b%')}'",
            f"{column} IN ({self._literal()}, {self._literal()})",
            f"{column} NOT IN (12, 9)",
            f"{column} BETWEEN {self._literal()} AND {self._literal()}",
            f"NOT {column} {self._operator()} {self._literal()}",
            f"{column} IS NOT NULL",
            f"{column} IS {self._literal()}",
            f"{column} GLOB '{self._one('*a', 'A*', '1?', '*%*', '[A-C]*')}'",
        )

    def _aggregate(self, q: str, of: str) -> str:
        column = q + self._one("gpa", "code", "zip", "born", "id", "name")
        other = of + self._one("grade", "points") if of else q + "dept_id"
        return self._one(
            "COUNT(*)",
            f"COUNT({column})",
            f"COUNT(DISTINCT {column})",
            f"{self._one('SUM', 'AVG', 'MAX', 'MIN', 'TOTAL')}({self._one(column, other)})",
            f"SUM({other}) / COUNT(*)",
            f"SUM({other} > 60)",
            f"AVG({other} > 60)",
            f"CAST(SUM({other}) AS REAL) / COUNT(*)",
        )

    def _value(self, q: str = "", depth: int = 2) -> str:
        number = q + self._one("id", "dept_id", "gpa")
        text = q + self._one("name", "code", "zip", "born", "joined", "dept_name")
        date = q + self._one("born", "joined")
        any_of = self._one(number, text)
        if depth and self._draw.random() < 0.3:
            any_of = self._value(q, depth - 1)
        return self._one(
            any_of,
            f"CAST({any_of} AS {self._one('INTEGER', 'REAL', 'TEXT', 'NUMERIC')})",
            f"({any_of} {self._one('+', '-', '*', '/', '%')} {self._one('2', '2.5', number, text)})",
            f"-{any_of}",
            f"STRFTIME('{self._one('%Y', '%m', '%d', '%Y-%m', '%H:%M', '%s', '%j')}', {date})",
            f"{self._one('DATE', 'DATETIME', 'TIME', 'UNIXEPOCH')}({date})",
            f"SUBSTR({any_of}, {self._one('1', '2', '0', '-2')}, 2)",
            f"LENGTH({any_of})",
            f"{any_of} || {self._one(number, text)}",
            f"COALESCE({any_of}, {self._one('0', chr(39) + 'x' + chr(39), number)})",
            f"IIF({any_of} {self._operator()} {self._literal()}, {self._one('1', number)}, {self._one('0', text)})",
            f"CASE {any_of} WHEN {self._literal()} THEN 'a' ELSE 'b' END",
            f"NULLIF({any_of}, {self._literal()})",
            f"ROUND({any_of}, 1)",
            f"ABS({any_of})",
            f"INSTR({any_of}, {self._one(chr(39) + '1' + chr(39), '1')})",
            f"MAX({any_of}, {self._one(number, text, '5')})",
        )
