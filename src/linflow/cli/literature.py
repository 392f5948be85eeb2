"""`linflow cite`."""

from typing import Annotated

import typer

from linflow.cli._app import app, say


@app.command()
def cite(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="KEY", help="References to print; all if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, not BibTeX or a table.")] = False,
    show_list: Annotated[bool, typer.Option("--list", help="List keys and titles.")] = False,
) -> None:
    """Print the literature that results rest on, as BibTeX.

    Exit code 0, or 2: a key is unknown.
    """
    from linflow._support.references import REFERENCES, select

    chosen = select(keys or REFERENCES)
    if as_json:
        import json

        fields = ("key", "title") if show_list else ("key", "title", "bibtex")
        listed = [{name: getattr(reference, name) for name in fields} for reference in chosen]
        say(json.dumps(listed, indent=2, ensure_ascii=False))
    elif show_list:
        width = max(len(reference.key) for reference in chosen)
        for reference in chosen:
            say(f"{reference.key:{width}}  {reference.title}")
    else:
        say("\n\n".join(reference.bibtex for reference in chosen))
