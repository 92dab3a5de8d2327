"""A report for people: a few lines for terminals, and a Markdown page."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from t2s_assets.text2sql.reports.own_data import data_parts
from t2s_assets.text2sql.storage import read_json

MEASURES = (
    ("em", "EM"),
    ("ex", "EX"),
    ("ex_strict", "EX strict"),
    ("test_suite", "test suite"),
    ("validity", "validity"),
)
PLOTS = ("accuracy", "errors", "calibration", "loss", "latency")


def percent(measured: Mapping[str, Any]) -> str:
    """A rate for people: `85.4 % (83.8-86.9)`."""
    if measured["value"] is None:
        return "no questions"
    return f"{100 * measured['value']:.1f} % ({100 * measured['low']:.1f}-{100 * measured['high']:.1f})"


def points(difference: Mapping[str, Any]) -> str:
    """A difference of two shares for people, in percentage points: `+2.4 points (-0.5 to +5.3)`."""
    value, low, high = (f"{100 * difference[name]:+.1f}" for name in ("value", "low", "high"))
    return f"{value} points ({low} to {high})"


def asked(part: Mapping[str, Any]) -> str:
    """Which of a split's questions were scored."""
    return f"a seeded sample of {part['n']:,} of {part['of']:,}" if part["sampled"] else f"all {part['n']:,}"


def _measured(part: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The measures of a split, without the test suite where none ran."""
    return [(key, name) for key, name in MEASURES if key != "test_suite" or part["overall"][key]["n"]]


def measures_table(report: Mapping[str, Any]) -> str:
    """The measures on the test questions as a Markdown table, each with its interval and n."""
    test, base = report["test"], report["baseline"]
    header = ["measure", "tuned", *(["untrained base"] if base else []), "n"]
    body = [
        [
            name,
            percent(test["overall"][key]),
            *([percent(base["overall"][key])] if base else []),
            f"{test['overall'][key]['n']:,}",
        ]
        for key, name in _measured(test)
    ]
    return _table(header, body)


def headline(report: Mapping[str, Any]) -> str:
    """The report in a few lines, for terminals and logs."""
    test = report["test"]
    lines = [f"{report['experiment']} on {asked(test)} test questions (95 % intervals)"]
    base = report["baseline"]
    for key, name in _measured(test):
        line = f"  {name:<11}{percent(test['overall'][key]):<24}"
        lines.append((line + (f"untrained base {percent(base['overall'][key])}" if base else "")).rstrip())
    if report["uses_table_content"]:
        lines.append(f"  reads      {content_mark(report)}")
    if total := report["latency"]["total_ms"]:
        lines.append(
            f"  latency    p50 {total['p50']} ms, p95 {total['p95']} ms a query; cold start "
            f"{report['latency']['cold_load_ms'] + report['latency']['cold_first_ms']:.0f} ms"
        )
    else:
        lines.append("  latency    no questions")
    training = report["training"]
    lines.append(
        f"  training   {training['minutes']} min, {training['examples_seen']:,} examples, "
        f"{training['tokens_a_second']} tokens/s, adapter {training['adapter_mb']} MB"
        + (f", that of {training['taken_from']}" if training.get("taken_from") else "")
    )
    for name, compared in report["comparisons"].items():
        if compared:
            lines.append(f"  {'than ' + name:<16}{comparison_line(compared)}")
    lines.append(f"  targets    {target_line(report['targets'])}")
    return "\n".join(lines)


def target_line(targets: Mapping[str, bool | None]) -> str:
    """Which targets were missed, or that all were met, and which nothing was measured for."""
    by_verdict = {verdict: [name for name, met in targets.items() if met is verdict] for verdict in (True, False, None)}
    said = "missed" if by_verdict[False] else "met"
    parts = [(said, by_verdict[said == "met"]), ("not measured", by_verdict[None])]
    return "; ".join(f"{said}: {', '.join(names)}" for said, names in parts if names)


def content_mark(report: Mapping[str, Any]) -> str:
    """What marks figures that WikiSQL's leaderboard keeps apart."""
    return f"cell values of the tables ({', '.join(report['uses_table_content'])})"


def page(report: Mapping[str, Any], images: Mapping[str, str]) -> str:
    """The report as Markdown; `images` are the addresses of its plots (files, or data URIs)."""
    test, base = report["test"], report["baseline"]
    parts = [f"# {report['experiment']}", f"Scored on {asked(test)} test questions. Intervals are 95 % (Wilson)."]
    if report["uses_table_content"]:
        parts.append(f"**These answers read {content_mark(report)}.**")
    parts.append(measures_table(report))
    if base:
        parts.append(
            f"Training won {base['ex_test']['won']:,} questions in EX and lost {base['ex_test']['lost']:,} "
            f"(McNemar {p_value(base['ex_test']['p'])}). Of those won, the base's SQL did not run on "
            f"{base['won_by_validity']:,} (validity) and was wrong on {base['won_by_understanding']:,} (understanding)."
        )
    verdicts = {True: "met", False: "**missed**", None: "not measured"}
    targets = [f"{verdicts[met]}: {name}" for name, met in report["targets"].items()]
    parts.append("Targets: " + "; ".join(targets) + ".")
    parts.append(f"![accuracy by category]({images['accuracy']})")
    parts += data_parts(report.get("data"))
    for title, key in (
        ("category", "by_category"),
        ("aggregate", "by_aggregate"),
        ("number of conditions", "by_conditions"),
    ):
        parts.append(f"## By {title}")
        parts.append(
            _table(
                [title, "n", "EM", "EX", "EX strict"],
                [
                    [
                        g,
                        f"{r['ex']['n']:,}",
                        percent(r["em"]),
                        percent(r["ex"]),
                        f"{percent(r['ex_strict'])}, n={r['ex_strict']['n']:,}",
                    ]
                    for g, r in (_by_number(test[key]) if key == "by_conditions" else test[key].items())
                ],
            )
        )
    parts.append("## Errors\nPredictions that differ from their gold, by slot; one may count in several.")
    parts.append(_table(["slot", "predictions"], [[k, f"{v:,}"] for k, v in test["errors"].items()]))
    parts += _confusion(test["aggregate_confusion"])
    parts.append(f"![errors]({images['errors']})")
    parts += _broken(base)
    parts += _comparisons(report["comparisons"], report.get("not_compared", {}))
    parts += _calibration(report["calibration"], images["calibration"])
    parts.append("## Latency\nOne query at a time, on the machine that ran the evaluation.")
    latency = report["latency"]
    parts.append(
        _table(
            ["ms", "p50", "p95", "p99"],
            [
                [n, *(str(latency[k].get(p, "no questions")) for p in ("p50", "p95", "p99"))]
                for n, k in (("total", "total_ms"), ("prefill", "prefill_ms"), ("decode", "decode_ms"))
            ],
        )
    )
    parts.append(
        f"Cold: {latency['cold_load_ms']:,} ms to load, {latency['cold_first_ms']:,} ms for the first answer. "
        f"{latency['tokens_a_query']} tokens and {latency['forward_passes_a_query']} forward passes a query; "
        f"n = {latency['n']}."
    )
    parts.append(f"![latency]({images['latency']})")
    parts.append("## Training")
    known = {k: v for k, v in report["training"].items() if v is not None}
    parts.append(_table(["", ""], [[k.replace("_", " "), str(v)] for k, v in known.items()]))
    parts.append(f"![loss]({images['loss']})")
    parts.append("## Worst failures\nWrong answers that the model was surest of.")
    for failure in report["worst"]:
        parts.append(
            f"**{_plain(failure['id'])}** {_plain(failure['question'])}\n\n"
            f"- gold {_code(failure['gold'])} gives {_code(failure['gold_result'])}\n"
            f"- predicted {_code(failure['predicted'])} gives {_code(failure['predicted_result'])}\n"
            f"- differs in: {', '.join(failure['errors']) or 'the result alone'}"
        )
    return "\n\n".join(parts) + "\n"


def _by_number(counts: Mapping[str, Any]) -> list[tuple[str, Any]]:
    return sorted(counts.items(), key=lambda item: int(item[0]))


def comparison_line(compared: Mapping[str, Any]) -> str:
    """A comparison in a line: both EX and their difference, questions won and lost, McNemar's p, what that says."""
    return (
        f"EX {100 * compared['ex']:.1f} % against {100 * compared['ex_other']:.1f} % ({compared['experiment']}) on "
        f"{compared['n']:,} questions, {points(compared['difference'])}: {compared['won']:,} won, "
        f"{compared['lost']:,} lost, {p_value(compared['p'])}, {compared['verdict']}"
    )


def p_value(p: float) -> str:
    """McNemar's p for people."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _confusion(confusion: Mapping[str, Mapping[str, int]]) -> list[str]:
    if not confusion:
        return []
    predicted = sorted({name for counts in confusion.values() for name in counts} | set(confusion))
    rows = [[gold, *(f"{counts.get(name, 0):,}" for name in predicted)] for gold, counts in confusion.items()]
    return [
        "Aggregates: gold in rows, predicted in columns, over predictions that parse.",
        _table(["gold", *predicted], rows),
    ]


def _broken(base: Mapping[str, Any] | None) -> list[str]:
    if not base or not base["broken"]:
        return []
    listed = base["broken_questions"]
    more = f" The first {len(listed):,} of {base['broken']:,}." if base["broken"] > len(listed) else ""
    parts = [f"## Broken by training\nQuestions that the base answered right and the tuned model wrong.{more}"]
    for broken in listed:
        parts.append(
            f"**{_plain(broken['id'])}** {_plain(broken['question'])}\n\n- gold {_code(broken['gold'])}\n"
            f"- base {_code(broken['base'])}\n- tuned {_code(broken['tuned'])}"
        )
    return parts


_REFERENCES = {"previous": "the report before this one", "champion": "the champion"}
_NONE = {
    "previous": "no report of this experiment on other predictions came before",
    "champion": "no other experiment served when these predictions were first reported",
}
_LISTED = 50


def _comparisons(comparisons: Mapping[str, Any], not_compared: Mapping[str, str]) -> list[str]:
    parts = ["## Against others"]
    for name, what in _REFERENCES.items():
        compared = comparisons[name]
        if not compared:
            parts.append(f"Nothing to compare with: {not_compared.get(name, _NONE[name])}.")
            continue
        parts.append(f"Against {what}, on test questions that both answered: {comparison_line(compared)} (McNemar).")
        for kind in ("won", "lost"):
            ids = compared[f"{kind}_questions"]
            more = f" and {len(ids) - _LISTED:,} more, in report.json" if len(ids) > _LISTED else ""
            if ids:
                parts.append(f"- {kind}: {', '.join(_plain(i) for i in ids[:_LISTED])}{more}")
    return parts


def _calibration(calibration: Mapping[str, Any] | None, image: str) -> list[str]:
    if calibration is None:
        return []
    parts = [
        "## Calibration\nDoes the probability of the written SQL tell whether its result is right (EX)? "
        f"{calibration['n']:,} answers.",
        f"Area under the risk-coverage curve {calibration['aurc']:.3f}; {calibration['aurc_optimal']:.3f} is the least "
        f"that these verdicts allow, {calibration['aurc_random']:.3f} what no order at all would give. Expected "
        f"calibration error {calibration['ece']:.3f}: the mean confidence is "
        f"{100 * calibration['mean_confidence']:.1f} %.",
        _table(
            ["at most wrong", "questions that can be answered", "from confidence"],
            [
                [
                    f"{100 * at['risk']:.0f} %",
                    f"{100 * at['coverage']:.1f} %",
                    "none" if at["confidence"] is None else f"{at['confidence']:.3f}",
                ]
                for at in calibration["coverage_at_risk"]
            ],
        ),
        f"![calibration]({image})",
    ]
    return parts


def page_with_images(folder: Path) -> str:
    """The page of a written report with its plots inside, as Dagster shows it."""
    report = read_json(folder / "report.json", made_by="t2s report")
    images = {n: image_uri(folder / f"{n}.png") for n in PLOTS}
    return page(report, images)


def image_uri(path: Path) -> str:
    """A PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode()


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(str(c).replace("|", "\\|") for c in line) + " |" for line in lines)


def _plain(text: str) -> str:
    """`text` in one line of Markdown, as it stands."""
    return re.sub(r"[\\`*_\[\]]", r"\\\g<0>", " ".join(text.split())).replace("<", "&lt;")


def _code(text: str) -> str:
    """The first 300 characters of `text` as a code span, between more backticks in a row than it has."""
    shown = " ".join(text.split())[:300]
    if not shown:
        return "nothing"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if len(fence) > 1 else f"`{shown}`"
