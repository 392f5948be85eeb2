"""Modules that import PyTorch, or whose examples do, have no doctests to collect where it is not installed."""

import re
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).parent
NEEDS = re.compile(r"^(?: *>>> )?(import|from) (torch|linflow\.torch\.(monitor|smoothness|_module))\b", re.MULTILINE)

collect_ignore = (
    []
    if find_spec("torch")
    else [
        str(path)
        for path in (*HERE.glob("src/**/*.py"), *HERE.glob("tests/**/*.py"))
        if NEEDS.search(path.read_text(encoding="utf-8"))
    ]
)
