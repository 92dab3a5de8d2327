"""The command that hands a tuned model to other programs: export."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from t2s_assets.cli.asking import Device, check_device


def register(app: typer.Typer) -> None:
    """Add the command to `app`."""
    app.command(rich_help_panel="Deploying")(export)


def export(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="DATASET/EXPERIMENT, DATASET (its champion), or an adapter's folder.")
    ],
    to: Annotated[Path, typer.Option("--to", metavar="FOLDER", help="A new or empty folder.")],
    what: Annotated[
        str,
        typer.Option(
            metavar="merged|adapter", help="merged: a model of its own; adapter: for PEFT, vLLM or t2s beside its base."
        ),
    ] = "merged",
    dtype: Annotated[
        str | None,
        typer.Option(
            metavar="float32|bfloat16|float16", help="Of merged weights; by default as the adapter was trained."
        ),
    ] = None,
    device: Device = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier export wrote to FOLDER.")] = False,
) -> None:
    """Write the tuned model to a folder for vLLM, llama.cpp, transformers or PEFT, with a model card."""
    check_device(device)
    if what not in ("merged", "adapter"):
        raise typer.BadParameter(f"merged or adapter is wanted; got {what!r}", param_hint="--what")
    if dtype not in (None, "float32", "bfloat16", "float16"):
        raise typer.BadParameter(f"float32, bfloat16 or float16 is wanted; got {dtype!r}", param_hint="--dtype")
    if dtype is not None and what == "adapter":
        raise typer.BadParameter(
            "an adapter stays as it was trained; --dtype is for merged weights", param_hint="--dtype"
        )
    from transformers.utils import logging

    from t2s_assets.text2sql.export.folder import export as write
    from t2s_assets.text2sql.storage import Project

    logging.disable_progress_bar()
    project = Project.find()
    done = write(
        project, model, to, what=what, dtype=dtype, device=device, force=force, log=lambda line: print(line, flush=True)
    )
    form = "adapter" if done.dtype is None else f"merged, {done.dtype}"
    print(f"exported {done.address}, version {done.version} ({form}, {done.size_mb:,.1f} MB), to {done.folder}")
