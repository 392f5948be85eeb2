"""One-place errors in the formulas, and whether the tests see them.

    python -m tests.mutants                     every module: `make mutants`
    python -m tests.mutants bounds --every 5    the modules whose names begin so; every fifth error

Ends with 1 if an error went unseen that `survivors.toml` does not argue.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import tomllib
from importlib.util import find_spec
from pathlib import Path

from tests.mutants.session import BROKEN, UNREACHED, UNSEEN
from tests.mutants.targets import TARGETS

ROOT = Path(__file__).parents[2]
ARGUED = Path(__file__).with_name("survivors.toml")


def argued() -> dict[tuple[str, str], str]:
    """Return the reasons why some errors are none, by function and text."""
    with ARGUED.open("rb") as file:
        groups = tomllib.load(file).get("survivor", [])
    return {(group["where"], mutant): group["reason"] for group in groups for mutant in group["mutants"]}


def examine(name: str, workers: int, every: int, longest: float, leave: list[tuple[str, str]]) -> list[dict]:
    """Return what became of the errors of a module, those left out apart."""
    module = ROOT.joinpath("src", "linflow", *name.split(".")).with_suffix(".py")
    tests = [path for test in TARGETS[name] if (path := ROOT / "tests" / f"{test}.py").exists()]
    with tempfile.TemporaryDirectory() as folder:
        out, left = Path(folder) / "found.json", Path(folder) / "left.json"
        left.write_text(json.dumps(leave), encoding="utf-8")
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not slow", "-p", "tests.mutants.session"]
        # pytest would rewrite the asserts of a module that is named, and its code would not be that of the source.
        command += ["--assert", "plain", "-p", "no:cacheprovider", "--tb", "native"]
        command += ["--mutate", f"linflow.{name}", "--mutants-out", str(out)]
        command += ["--mutants-workers", str(workers), "--mutants-every", str(every)]
        command += ["--mutants-longest", str(longest), "--mutants-leave", str(left)]
        done = subprocess.run(
            [*command, *map(str, [*tests, module])],
            cwd=ROOT,
            env=os.environ,
            check=False,
            capture_output=True,
            text=True,
        )
        if not out.exists():
            sys.exit(f"{name}: the tests do not pass, or are not found:\n{done.stdout[-4000:]}{done.stderr[-2000:]}")
        return json.loads(out.read_text(encoding="utf-8"))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("modules", nargs="*", help="beginnings of module names; all when none is given")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--every", type=int, default=1, help="make every k-th error only")
    parser.add_argument(
        "--longest", type=float, default=math.inf, help="leave out tests that take more seconds: for a first look"
    )
    parser.add_argument("--argued", action="store_true", help="make the errors of survivors.toml, too")
    options = parser.parse_args()
    names = [n for n in TARGETS if not options.modules or n.startswith(tuple(options.modules))]
    if find_spec("torch") is None:
        names = [n for n in names if not n.startswith("torch.")]
        print("PyTorch is not installed: its modules are left out")
    reasons, new, all_seen, all_made = argued(), 0, 0, 0
    for name in names:
        known = {
            f"{where.partition(':')[2]}\n{text}": why
            for (where, text), why in reasons.items()
            if where.startswith(f"{name}:")
        }
        leave = [] if options.argued else [tuple(key.split("\n", 1)) for key in known]
        found = examine(name, options.workers, options.every, options.longest, leave)
        if broken := [m for m in found if m["code"] == BROKEN]:
            sys.exit(f"{name}: errors that cannot be made: {broken}")
        unseen = [m for m in found if m["code"] in (UNSEEN, UNREACHED)]
        seen = len(found) - len(unseen)
        all_seen, all_made = all_seen + seen, all_made + len(found)
        beside = f", {len(leave)} argued" if leave else ""
        print(f"{name}: {seen} of {len(found)} seen ({100 * seen / max(len(found), 1):.1f} %){beside}", flush=True)
        for m in unseen:
            reason = known.get(f"{m['function']}\n{m['mutant']}")
            new += reason is None
            how = reason or ("no test comes here" if m["code"] == UNREACHED else "SURVIVES")
            print(f"  {name.replace('.', '/')}.py:{m['line']} {m['function']}: {m['mutant']}  [{how}]", flush=True)
    print(f"{all_seen} of {all_made} seen ({100 * all_seen / max(all_made, 1):.1f} %), {new} not argued")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
