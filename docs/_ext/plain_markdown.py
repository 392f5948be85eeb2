"""Pages of the site as Markdown that any reader of notebooks shows."""

from __future__ import annotations

import re

SOLUTION = re.compile(r"^:::\{dropdown\} ([^\n]*)\n((?::[^\n]*\n)*)(.*?)^:::$", re.DOTALL | re.MULTILINE)
DIRECTIVE = re.compile(r"^:{3,}\{[\w-]+\}[ ]?(.*)$\n(?:^:\w.*$\n)*", re.MULTILINE)
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?://)[^)]+\)")
PICTURE = re.compile(r"^:::\{paper-figure\} (\w+)$\n((?:^:\w+:.*$\n)*)^:::$", re.MULTILINE)
ROLE = re.compile(r"\{[\w:]+\}`([^`]+)`")


def _command(match: re.Match[str]) -> str:
    given = re.findall(r"^:set: (.*)$", match[2], re.MULTILINE)
    settings = "".join(f" --set {one}" for one in " ".join(given).split())
    return f"*The figure of this place is drawn by `linflow reproduce {match[1]}{settings}`.*"


def plain(markdown: str) -> str:
    """Return Markdown that Jupyter shows as well: directives become text, and links into the site words."""
    markdown = PICTURE.sub(_command, ROLE.sub(r"`\1`", markdown))
    markdown = SOLUTION.sub(r"**\1**\n\n\3", markdown)
    markdown = DIRECTIVE.sub(lambda match: f"**{match[1]}**\n\n" if match[1] else "", markdown)
    markdown = re.sub(r"^:{3,}$\n?", "", markdown, flags=re.MULTILINE)
    return LINK.sub(r"\1", markdown)
