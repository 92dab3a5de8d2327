"""A dataset of one's own for tests: three tables of a library and 22 questions, in DuckDB, SQLite and CSV."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb

from t2s_assets_tests.projects import ProjectFiles

TABLES: dict[str, tuple[str, list[tuple[Any, ...]]]] = {
    "authors": (
        "id INTEGER, name VARCHAR, born INTEGER, country VARCHAR",
        [
            (1, "Selma Lagerlöf", 1858, "Sweden"),
            (2, "Knut Hamsun", 1859, "Norway"),
            (3, "Karin Boye", 1900, "Sweden"),
            (4, "Tove Jansson", 1914, "Finland"),
        ],
    ),
    "books": (
        "id INTEGER, author_id INTEGER, title VARCHAR, published DATE, price DECIMAL(6,2), lent BOOLEAN",
        [
            (1, 1, "Gösta Berling", "1891-11-10", "12.50", True),
            (2, 1, "Nils Holgersson", "1906-11-24", "20.00", False),
            (3, 2, "Sult", "1890-06-01", "9.90", False),
            (4, 3, "Kallocain", "1940-10-15", "15.00", True),
            (5, 4, "Trollvinter", "1957-09-20", "18.00", False),
            (6, 4, "Sommarboken", "1972-06-05", "14.25", True),
        ],
    ),
    "Loans": (
        'book_id INTEGER, "Member name" VARCHAR, days INTEGER',
        [(1, "Ida", 14), (1, "Per", 30), (4, "Ida", 7), (6, "Åsa", 21), (6, "Per", 21)],
    ),
}

QUESTIONS: list[tuple[str, str]] = [
    ("Who are the authors?", "SELECT name FROM authors"),
    ("Which authors come from Sweden?", "SELECT name FROM authors WHERE country = 'Sweden'"),
    ("How many books are there?", "SELECT COUNT(*) FROM books"),
    ("What does the dearest book cost?", "SELECT MAX(price) FROM books"),
    ("What came out after 1950?", "SELECT title FROM books WHERE published > '1950-01-01'"),
    ("Who wrote Sult?", "SELECT a.name FROM authors a JOIN books b ON b.author_id = a.id WHERE b.title = 'Sult'"),
    (
        "Which titles are lent to Ida?",
        "SELECT title FROM books JOIN Loans ON book_id = id WHERE \"Member name\" = 'Ida'",
    ),
    ("How many authors has each country?", "SELECT country, COUNT(*) FROM authors GROUP BY country"),
    (
        "Which countries have more than one author?",
        "SELECT country FROM authors GROUP BY country HAVING COUNT(*) > 1",
    ),
    ("Books from dear to cheap", "SELECT title FROM books ORDER BY price DESC"),
    ("The two oldest authors", "SELECT name FROM authors ORDER BY born LIMIT 2"),
    (
        "Who wrote the most books?",
        "SELECT name FROM authors JOIN books ON author_id = authors.id GROUP BY name "
        "ORDER BY COUNT(*) DESC, name LIMIT 1",
    ),
    ("Which books cost more than the average?", "SELECT title FROM books WHERE price > (SELECT AVG(price) FROM books)"),
    ("Which books were never lent?", "SELECT title FROM books WHERE id NOT IN (SELECT book_id FROM loans)"),
    (
        "How many loans had the book lent most?",
        "WITH n AS (SELECT book_id, COUNT(*) AS times FROM loans GROUP BY book_id) SELECT MAX(times) FROM n",
    ),
    (
        "The first book of each author",
        "SELECT title FROM (SELECT title, ROW_NUMBER() OVER (PARTITION BY author_id ORDER BY published) AS nr "
        "FROM books) x "
        "WHERE nr = 1",
    ),
    (
        "Rank the books by price",
        "SELECT title, RANK() OVER (ORDER BY price DESC) FROM books",
    ),
    ("All names of authors and members", 'SELECT name FROM authors UNION SELECT "Member name" FROM loans'),
    (
        "Authors that have no book before 1900",
        "SELECT id FROM authors EXCEPT SELECT author_id FROM books WHERE published < '1900-01-01'",
    ),
    ("For how many days does Per borrow in all?", "SELECT SUM(days) FROM loans WHERE \"Member name\" = 'Per'"),
    (
        "Authors with their books, also those without",
        "SELECT name, title FROM authors LEFT JOIN books ON author_id = authors.id",
    ),
    ("Which country does Tove Jansson come from?", "SELECT country FROM authors WHERE name = 'Tove Jansson'"),
]

EXPERIMENT: dict[str, dict[str, Any]] = {
    "training": {"max_steps": 4, "batch_size": 4, "eval_steps": 2, "eval_examples": 4, "save_steps": 2},
    "prompt": {"max_length": 768},
    "decoding": {"grammar": "none", "max_new_tokens": 24},
    "evaluation": {"latency_questions": 2},
}


def write_duckdb(path: Path) -> Path:
    """The library as a DuckDB file."""
    with closing(duckdb.connect(str(path))) as connection:
        for name, (columns, rows) in TABLES.items():
            connection.execute(f'CREATE TABLE "{name}" ({columns})')
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows)
    return path


def write_sqlite(path: Path) -> Path:
    """The library as a SQLite file, which keeps dates as text and booleans as 0 and 1."""
    with closing(sqlite3.connect(path)) as connection:
        for name, (columns, rows) in TABLES.items():
            connection.execute(f'CREATE TABLE "{name}" ({columns})')
            marks = ", ".join("?" * len(rows[0]))
            connection.executemany(f'INSERT INTO "{name}" VALUES ({marks})', rows)
        connection.commit()
    return path


def write_csv(folder: Path) -> Path:
    """The library as a folder: two CSV files and one Parquet file."""
    folder.mkdir()
    with closing(duckdb.connect(str(write_duckdb(folder / "source.db")))) as connection:
        for name in ("authors", "Loans"):
            connection.execute(f"COPY \"{name}\" TO '{folder / f'{name}.csv'}' (HEADER)")
        connection.execute(f"COPY books TO '{folder / 'books.parquet'}' (FORMAT parquet)")
    return folder


def write_questions(path: Path, questions: Iterable[Any] = QUESTIONS) -> Path:
    """A questions' file of (question, SQL) pairs, records, or lines as they are."""
    lines = []
    for q in questions:
        if isinstance(q, tuple):
            q = {"question": q[0], "sql": q[1]}
        lines.append(q if isinstance(q, str) else json.dumps(q, ensure_ascii=False))
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def add_library(files: ProjectFiles, asked: Iterable[Any] = QUESTIONS, **settings: Any) -> ProjectFiles:
    """The dataset `library` on its DuckDB file; `settings` replace or add to its dataset.yaml."""
    write_questions(files.root / "questions.jsonl", asked)
    if "databases" not in settings and not (files.root / "library.duckdb").exists():
        write_duckdb(files.root / "library.duckdb")
    content = {
        "reader": "own",
        "description": "for a test",
        "databases": "../../library.duckdb",
        "questions": "../../questions.jsonl",
    }
    files.yaml("library", "dataset", content | settings)
    return files
