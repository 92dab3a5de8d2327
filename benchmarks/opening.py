"""Opening a CSV, as `t2s ask --db FILE` does before the model is asked, beside DuckDB's own `read_csv`, in one run.

    python benchmarks/opening.py [--shapes NAME ...] [--rows N] [--repeats N] [--json FILE]

- ours: the types of all columns by every cell read, and the rows with these types, in memory: ten million cells at the
  most.
- read_csv: DuckDB's sniffer, which goes by the first 20,480 rows, and its reader on all threads, into a table of as
  many rows. The baseline.
- read_csv, all rows: the same of the whole file, where it has more cells.

Each opening is in a process of its own, the ways in turns; figures are medians of `--repeats`. Memory is the peak of
that process, imports included. Files are made by DuckDB in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import statistics
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb

from t2s_assets.text2sql.query import string_literal
from t2s_assets.text2sql.tables.sources import open_source

_MIXED = (
    "i",
    "round(hash(i) % 1000000 / 100, 2)",
    "'word ' || hash(i) % 977",
    "DATE '2000-01-01' + (i % 9000)::INTEGER",
    "TIMESTAMP '2020-01-01' + to_seconds(i)",
    "i % 2 = 0",
    "'Name ' || hash(i) % 100000",
    "(i * 7919) % 1000003",
    "hash(i) / 1e9",
    "CASE WHEN i % 50 > 0 THEN i % 1000 END",
)
_NASTY = (
    "format('{:,}', hash(i) % 10000000)",
    "CASE WHEN i % 20 = 0 THEN 'N/A' ELSE (i % 1000)::VARCHAR END",
    "format('{:05d}', i % 100000)",
    "CASE WHEN i % 2 = 0 THEN strftime(DATE '2000-01-01' + (i % 9000)::INTEGER, '%d/%m/%Y') ELSE '2024-01-02' END",
    "CASE WHEN i % 30 = 0 THEN '?' ELSE strftime(DATE '2000-01-01' + (i % 9000)::INTEGER, '%Y-%m-%d') END",
    "'1234567890123456789012345' || (100000 + i % 900000)",
    "'12 Long Road' || chr(10) || 'Town ' || i % 999",
    "CASE WHEN i % 3 = 0 THEN 'true' ELSE '-' END",
    "CASE WHEN i % 9 < 8 THEN (i % 100)::VARCHAR ELSE 'about ' || i % 100 END",
    "CASE WHEN i > 2000 THEN i::VARCHAR END",
)


@dataclass(frozen=True)
class Shape:
    rows: int
    columns: int
    cells: tuple[str, ...]

    def write(self, path: Path, rows: int) -> None:
        cells = ", ".join(f"{self.cells[k % len(self.cells)]} AS c{k}" for k in range(self.columns))
        with duckdb.connect() as connection:
            connection.execute(f"COPY (SELECT {cells} FROM range({rows}) AS r(i)) TO {string_literal(str(path))}")


SHAPES = {
    "mixed": Shape(1_000_000, 10, _MIXED),
    "thirty": Shape(1_000_000, 30, _MIXED),
    "wide": Shape(100_000, 200, _MIXED),
    "nasty": Shape(1_000_000, 10, _NASTY),
}


def ours(path: Path, rows: int | None) -> int:
    """Opens the file as `t2s` does. Returns the number of rows."""
    return open_source(db=path).table().alone.content.data.num_rows


def read_csv(path: Path, rows: int | None) -> int:
    """The first `rows` of the file, or all of them, as a DuckDB table. Returns their number."""
    limit = "" if rows is None else f" LIMIT {rows}"
    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE t AS SELECT * FROM read_csv({string_literal(str(path))}){limit}")
        return int(connection.execute("SELECT count(*) FROM t").fetchall()[0][0])


def measured(way: str, path: Path, rows: int | None) -> dict[str, float]:
    """Wall and CPU seconds, peak memory in MB and rows of one opening, in this process."""
    cpu, started = time.process_time(), time.perf_counter()
    found = {"ours": ours, "read_csv": read_csv}[way](path, rows)
    seconds = time.perf_counter() - started
    unit = 1 if sys.platform == "darwin" else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6
    return {"seconds": seconds, "cpu_seconds": time.process_time() - cpu, "peak_rss_mb": peak, "rows": found}


def alone(way: str, path: Path, rows: int | None = None) -> dict[str, float]:
    """`measured` in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measured, way, path, rows).result()


def compared(path: Path, repeats: int) -> dict[str, float]:
    """Medians of all ways, and the ratios to ours."""
    runs: dict[str, list[dict[str, float]]] = {"": [], "baseline_": [], "all_rows_": []}
    for _ in range(repeats):
        runs[""].append(alone("ours", path))
        runs["baseline_"].append(alone("read_csv", path, int(runs[""][-1]["rows"])))
        runs["all_rows_"].append(alone("read_csv", path))
    found = {
        way + figure: round(statistics.median(run[figure] for run in of_way), 3)
        for way, of_way in runs.items()
        for figure in of_way[0]
    }
    for way in ("baseline_", "all_rows_"):
        found[f"{way}ratio"] = round(found["seconds"] / found[f"{way}seconds"], 2)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--rows", type=int, help="rows of each file (default: a million; of 200 columns, 100,000)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in options.shapes:
            shape, path = SHAPES[name], Path(folder) / f"{name}.csv"
            shape.write(path, options.rows or shape.rows)
            found = {"columns": shape.columns, "file_mb": round(path.stat().st_size / 1e6, 1)}
            found |= compared(path, options.repeats)
            path.unlink()
            report[name] = found
            print(
                f"{name:<8}{found['rows']:>10,.0f} rows of {shape.columns} columns: "
                f"ours {found['seconds']:.2f} s ({found['cpu_seconds']:.2f} of CPU, {found['peak_rss_mb']:.0f} MB), "
                f"read_csv {found['baseline_seconds']:.2f} s ({found['baseline_cpu_seconds']:.2f}, "
                f"{found['baseline_peak_rss_mb']:.0f} MB), ratio {found['baseline_ratio']}; "
                f"all {found['all_rows_rows']:,.0f} rows {found['all_rows_seconds']:.2f} s",
                flush=True,
            )
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
