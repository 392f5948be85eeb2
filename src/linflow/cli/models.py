"""`linflow audit`."""

from pathlib import Path
from typing import Annotated

import typer

from linflow.cli._app import app, say


@app.command()
def audit(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="Weights of a model: .safetensors, .pt, .pth, .ckpt or .bin.")
    ],
    chain: Annotated[
        list[str] | None,
        typer.Option(metavar="A,B,…", help="Layers that follow one another, first applied first; may be repeated."),
    ] = None,
    heads: Annotated[
        int | None, typer.Option(min=1, help="Number of attention heads, if no config.json gives it.")
    ] = None,
    kv_heads: Annotated[
        int | None, typer.Option(min=1, help="Number of key and value heads, if it is smaller.")
    ] = None,
    scaling: Annotated[
        float | None, typer.Option(help="Scale s of LoRA adapters, if no adapter_config.json gives it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not a table.")] = False,
) -> None:
    """Find the chains of linear maps in a PyTorch model, LoRA adapters too, and report what their weights imply.

    Nothing in the file is run. Example: linflow audit model.safetensors

    Exit code 0: chains were found; 1: none were; 2: bad input.
    """
    from linflow.torch.auditing import audit_file

    found = audit_file(
        file, named=[names.split(",") for names in chain or ()], heads=heads, kv_heads=kv_heads, scaling=scaling
    )
    say(found.to_json() if as_json else str(found))
    raise typer.Exit(0 if found.chains else 1)
