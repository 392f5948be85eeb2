"""The one-place errors: which node of a module may be wrong, and how.

Left out is what cannot matter: of which of two arrays the namespace or the shape is taken; the idioms `0.0 * x` for a
zero, and `a + 0.0 * x` for an a, of the kind of x; and `>` for `≥` in `where(a > b, a, b)`, which is a maximum. So is
`while True`, which no formula holds: without its body a function has other code inside, and cannot be exchanged.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Mult, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISON = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
OPPOSITE = dict(
    pair
    for a, b in (
        ("min", "max"), ("minimum", "maximum"), ("fmin", "fmax"), ("floor", "ceil"), ("any", "all"),
        ("argmin", "argmax"), ("lower", "upper"), ("at_least", "at_most"), ("prefixes", "suffixes"),
        ("sum", "prod"), ("cumsum", "cumprod"),
    )
    for pair in ((a, b), (b, a))
)  # fmt: skip
OPPOSITE |= {"log1p": "log", "expm1": "exp"}
DROPPED = {"sqrt", "abs", "fabs"}
SILENT = {"__repr__", "__str__", "_repr_html_", "_view", "_spectrum_view", "text_table", "rows", "text", "to_dict"}
"""Functions that only show what was computed."""


@dataclass(frozen=True)
class Mutant:
    """One error: where it is, how it reads, and the function that makes it in the tree."""

    function: str
    outer: ast.AST | None
    first: int
    last: int
    line: int
    text: str
    make: Callable[[], None]


def mutants(tree: ast.Module) -> Iterator[Mutant]:
    """Return every error of a module; `make` changes the tree for good.

    Errors of one text in one function are numbered, so that each has a name of its own.
    """
    found = list(_of(tree))
    twins = Counter((m.function, m.text) for m in found)
    met: Counter = Counter()
    for m in found:
        key = m.function, m.text
        met[key] += 1
        yield replace(m, text=f"{m.text} #{met[key]}") if twins[key] > 1 else m


def _of(tree: ast.Module) -> Iterator[Mutant]:
    for statement in tree.body:
        if isinstance(statement, (ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign)):
            yield from _inside(statement, [], None)


def _inside(node: ast.AST, names: list[str], outer: ast.AST | None) -> Iterator[Mutant]:  # noqa: PLR0912
    if isinstance(node, ast.ClassDef):
        for statement in node.body:
            if isinstance(statement, (ast.FunctionDef, ast.ClassDef)):
                yield from _inside(statement, [*names, node.name], outer)
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        if node.name in SILENT:
            return
        for statement in node.body:
            yield from _inside(statement, [*names, node.name], outer or node)
    elif (
        isinstance(node, (ast.Raise, ast.Import, ast.ImportFrom))
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant))
    ):
        return
    else:
        for field, value in ast.iter_fields(node):
            if field in ("annotation", "returns"):
                continue
            for child in value if isinstance(value, list) else [value]:
                if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
                    yield from _inside(child, names, outer)
                elif isinstance(child, ast.AST):
                    yield from _expressions(child, node, node, names, outer)
        if isinstance(node, ast.AugAssign) and type(node.op) in ARITHMETIC:
            yield _mutant(node, "op", ARITHMETIC[type(node.op)](), node, node, names, outer)


def _expressions(node, parent, statement, names, outer) -> Iterator[Mutant]:
    if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.keyword) and node.arg == "strict") or _idle(node):
        return
    if isinstance(node, ast.Lambda):
        outer = outer or node
    for attribute, value, shown in _wrong(node):
        if _same(node, parent, attribute):
            continue
        yield _mutant(node, attribute, value, parent if shown else node, statement, names, outer)
    for _, value in ast.iter_fields(node):
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not isinstance(child, (ast.expr_context, ast.operator, ast.cmpop)):
                yield from _expressions(child, node, statement, names, outer)


def _idle(node: ast.AST) -> bool:
    """Tell whether a node only says of what kind an array is."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Mult):
        return any(isinstance(side, ast.Constant) and side.value == 0.0 for side in (node.left, node.right))
    if isinstance(node, ast.Attribute):
        return node.attr in {"shape", "dtype", "ndim"}
    return isinstance(node, ast.Call) and _called(node) in {"namespace", "zeros_like", "ones_like", "device"}


def _same(node: ast.AST, parent: ast.AST, attribute: str | None) -> bool:
    """Tell whether a change makes no difference where it stands."""
    if isinstance(node, ast.BinOp) and attribute == "op" and isinstance(node.op, ast.Add):
        return _idle(node.left) or _idle(node.right)
    if isinstance(parent, ast.While) and isinstance(node, ast.Constant):
        return True
    if not (isinstance(node, ast.Compare) and isinstance(parent, ast.Call) and _called(parent) == "where"):
        return False
    sides = {ast.unparse(node.left), ast.unparse(node.comparators[0])}
    chosen = {re.sub(r" [+] 0\.0 [*] \w+$", "", ast.unparse(x)) for x in parent.args[1:]}
    return len(node.ops) == 1 and isinstance(node.ops[0], (ast.Lt, ast.LtE, ast.Gt, ast.GtE)) and sides == chosen


def _wrong(node: ast.AST) -> Iterator[tuple]:  # noqa: PLR0912
    """Return what may be wrong at a node: attribute, its wrong value, and whether to show it with its parent."""
    if isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield "value", not node.value, True
    elif isinstance(node, ast.Constant) and isinstance(node.value, int):
        yield "value", node.value + 1, True
    elif isinstance(node, ast.Constant) and isinstance(node.value, float):
        yield "value", 2 * node.value or 1.0, True
    elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
        yield "op", ARITHMETIC[type(node.op)](), False
    elif isinstance(node, ast.Compare):
        for k, op in enumerate(node.ops):
            if type(op) in COMPARISON:
                yield "ops", [*node.ops[:k], COMPARISON[type(op)](), *node.ops[k + 1 :]], False
    elif isinstance(node, ast.BoolOp):
        yield "op", ast.Or() if isinstance(node.op, ast.And) else ast.And(), False
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.USub, ast.Not)):
        yield None, node.operand, False
    elif isinstance(node, ast.Call) and len(node.args) == 1 and _called(node) in DROPPED:
        yield None, node.args[0], False
    elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load) and node.id in OPPOSITE:
        yield "id", OPPOSITE[node.id], True
    elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load) and node.attr in OPPOSITE:
        yield "attr", OPPOSITE[node.attr], True
    elif isinstance(node, ast.Attribute) and node.attr == "T":
        yield None, node.value, True


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _mutant(node, attribute, value, shown, statement, names, outer) -> Mutant:
    def make() -> None:
        if attribute is None:
            fields = copy.copy(value)
            node.__class__ = fields.__class__
            node.__dict__ = fields.__dict__
        else:
            setattr(node, attribute, value)

    before, kept, kind = _text(shown), dict(node.__dict__), node.__class__
    make()
    text = f"{before} -> {_text(shown)}"
    node.__class__, node.__dict__ = kind, kept
    first, last = statement.lineno, _head_end(statement)
    return Mutant(".".join(names), outer, first, last, node.lineno if hasattr(node, "lineno") else first, text, make)


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.stmt):
        node = copy.copy(node)
        for body in ("body", "orelse"):
            if hasattr(node, body):
                setattr(node, body, [ast.Expr(ast.Constant(...))] if body == "body" else [])
    return " ".join(ast.unparse(node).split())


def _head_end(statement: ast.AST) -> int:
    """Return the last line of a statement without its body."""
    body = getattr(statement, "body", None)
    last = body[0].lineno - 1 if isinstance(body, list) and body else statement.end_lineno
    return max(last, statement.lineno)
