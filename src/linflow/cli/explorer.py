"""`linflow explore`."""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from linflow.cli._app import app, say


@app.command()
def explore(
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on 127.0.0.1; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
    page: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the page without a server to this file, and exit."),
    ] = None,
) -> None:
    """Open a page on which you drag starts and watch the rate, the guarantee and the proof.

    Only this machine can open the page. Ctrl-C ends it. Example: linflow explore

    Exit code 0: the page was ended, or written; 2: bad input.
    """
    if page is not None:
        from linflow._support.own_files import refuse_foreign_files
        from linflow.pages import play

        refuse_foreign_files([page], "name another file")
        play.write(page)
        say(f"{page}")
        return

    from linflow.pages.explorer import Explorer

    explorer = Explorer(port)
    say(f"{explorer.url} (Ctrl-C ends it)")
    try:
        if browser:
            webbrowser.open(explorer.url)
        explorer.run()
    except KeyboardInterrupt:
        pass
    finally:
        explorer.close()
