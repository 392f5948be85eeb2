"""Formulas of docstrings, written in Unicode for the terminal, as LaTeX for the site."""

from __future__ import annotations

import re
import unicodedata

GREEK = {
    "α": "alpha", "β": "beta", "γ": "gamma", "δ": "delta", "ε": "varepsilon", "ζ": "zeta", "η": "eta", "θ": "theta",
    "κ": "kappa",
    "λ": "lambda", "μ": "mu", "ν": "nu", "ξ": "xi", "π": "pi", "ρ": "rho", "σ": "sigma", "τ": "tau",
    "φ": "varphi", "χ": "chi", "ψ": "psi", "ω": "omega", "Γ": "Gamma", "Δ": "Delta", "Θ": "Theta", "Λ": "Lambda",
    "Φ": "Phi", "Ψ": "Psi", "Ω": "Omega", "ℓ": "ell",
}  # fmt: skip
SIGNS = {
    "−": "-", "·": r"\cdot", "×": r"\times", "⋯": r"\cdots", "…": r"\ldots", "≤": r"\le", "≥": r"\ge", "≠": r"\ne",
    "≈": r"\approx", "∼": r"\sim", "∝": r"\propto", "⪰": r"\succeq", "⪯": r"\preceq",
    "⟨": r"\langle", "⟩": r"\rangle",
    "⊗": r"\otimes", "∘": r"\circ", "∇": r"\nabla", "∂": r"\partial", "∫": r"\int", "Σ": r"\sum", "Π": r"\prod",
    "∞": r"\infty", "½": r"\tfrac12", "¼": r"\tfrac14", "∧": r"\wedge", "↦": r"\mapsto", "→": r"\to",
    "←": r"\leftarrow", "∓": r"\mp", "±": r"\pm", "∈": r"\in", "⊂": r"\subset", "⊇": r"\supseteq", "≪": r"\ll",
    "≫": r"\gg", "′": "'", "%": r"\%", "#": r"\#", "&": r"\&", "⊥": r"\perp", "⊛": r"\circledast", "°": r"^{\circ}",
    "⌈": r"\lceil", "⌉": r"\rceil", "⌊": r"\lfloor", "⌋": r"\rfloor", "∪": r"\cup", "∩": r"\cap",
}  # fmt: skip
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻ᵀᵏⁿ", [*"0123456789+-", r"\top", "k", "n"], strict=True))
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋ₗₖ", [*"0123456789+-", "l", "k"], strict=True))
ACCENTS = {"\u0307": "dot", "\u0308": "ddot", "\u0304": "bar", "\u0303": "tilde", "\u0302": "hat"}
FUNCTIONS = {"exp", "log", "max", "min", "sup", "inf", "det", "dim", "sin", "cos", "sinh", "cosh"}
OPERATORS = {"rank", "tr", "diag", "eig", "sign", "vec", "cond", "span"}
# Two letters beside each other are a product; these are words.
WORDS = {
    "of",
    "at",
    "or",
    "and",
    "for",
    "if",
    "lo",
    "hi",
    "steps",
    "rate",
    "step",
    "gap",
    "flow",
    "sum",
    "all",
    "NTK",
}
NAMES_OF_LETTERS = {name: name for name in ("alpha", "beta", "gamma", "eta", "sigma", "mu", "kappa", "lambda")}
SHAPE = re.compile(r"\((?:[…A-Za-z](?:_[\w{}\-+]+)?|\d+|min\(\w, \w\)|[\w]+ ?[+−-] ?\d+|, ?|…)*\)")
MATHEMATICS = set(GREEK) | (set(SIGNS) - set("%#&°")) | set(RAISED) | set(LOWERED) | set("‖√")


def is_formula(span: str) -> bool:
    """Return whether a code span of a docstring is a formula; otherwise it is code."""
    if re.search(r'"|docs/|\.\w{2,}|[a-z]{3,}=|--|::|__|[a-z]\.[a-z]|->', span):
        return False
    if any(
        name not in FUNCTIONS | OPERATORS | {"sqrt"}
        for name in re.findall(r"(?<![\w.])([a-z]{3,}[a-z_]*|[a-z]+_[a-z_]{3,})\(", span)
    ):
        return False
    decomposed = _decomposed(span)
    if set(decomposed) & (MATHEMATICS | set(ACCENTS)):
        return True
    if re.fullmatch(r"[A-Za-z]_\w|[A-Za-z]_\d+|[A-Za-z]_\{.*\}|[A-Z]\*?|\w'+(?:\(\w\))?", span):
        return True
    words = [word for word in re.findall(r"[A-Za-z]+", span) if len(word) > 2]
    if any(word not in FUNCTIONS | OPERATORS | {"sqrt"} for word in words):
        return False
    return bool(SHAPE.fullmatch(span) or re.search(r"[\^*|]|\w[ ]?[<>/+]|\w_\w|[a-zA-Z] = ", span))


def latex(text: str) -> str:
    r"""Return a formula in Unicode as LaTeX.

    >>> latex("λ_min(T) ≥ ½ sqrt(d² + 4σ_m²)")
    '\\lambda_{\\min}(T) \\ge \\tfrac12 \\sqrt{d^{2} + 4\\sigma_{m}^{2}}'
    """
    return _Reader(_decomposed(" ".join(text.split()))).all()


def _decomposed(text: str) -> str:
    """Return text whose accents stand behind their letters; crossed-out signs stay."""
    return "".join(
        unicodedata.normalize("NFD", c) if set(unicodedata.normalize("NFD", c)) & set(ACCENTS) else c for c in text
    )


class _Reader:
    """Reads a formula from left to right; brackets, indices and bars need to know what is open."""

    def __init__(self, text: str) -> None:
        self.text, self.at = text, 0
        self.bars = {"‖": False, "|": False}

    def all(self, end: str = "") -> str:
        """Return the rest, or the part before an end that matches what is open."""
        found = ""
        while self.at < len(self.text) and self.text[self.at] != end:
            one = self.one()
            if found[-1:].isalpha() and re.search(r"\\[a-zA-Z]+$", found) and one[:1].isalnum():
                found += " "  # a command ends before a letter
            found += one
        self.at += bool(end)  # a bracket that never closes ends with the text
        found = re.sub(r"\s+", " ", found).strip()
        found = re.sub(r"(\\text\{[^}]*\}) (?=[\w\\(])(?!\\(?:[lg]e|to|cdot)\b)", r"\1\\;", found)
        found = re.sub(r"(?<=[\w})]) (?=\\text\{)", r"\\;", found)
        return re.sub(r" (?=[_^,;)\]])", "", found)

    def one(self) -> str:
        """Return the next piece."""
        rest = self.text[self.at :]
        if match := re.match(r"(?:sqrt|√)\(", rest):
            self.at += match.end()
            return rf"\sqrt{{{self.all(')')}}}"
        if match := re.match(r"√(\w(?:_\w+)?(?:\(\S*\)(?=\s|$))?)", rest):
            self.at += match.end()
            return rf"\sqrt{{{latex(match[1])}}}"
        if match := re.match(r"[_^](?=\S)", rest):
            self.at += 1
            return f"{match[0]}{{{self.script()}}}"
        for signs, mark in ((RAISED, "^"), (LOWERED, "_")):
            if rest[0] in signs:
                return self.small(signs, mark)
        if match := re.match(r"[A-Za-z]+", rest):
            return self.word(match[0])
        return self.sign(rest)

    def script(self) -> str:
        """Return what stands behind _ or ^."""
        rest = self.text[self.at :]
        if rest[0] in "{(":
            self.at += 1
            inner = self.all("}" if rest[0] == "{" else ")")
            return inner if rest[0] == "{" else f"({inner})"
        match = re.match(r"(?:min|max)(?![a-z])|[a-z]+|[0-9]+|\S", rest)
        assert match is not None
        self.at += match.end()
        word = match[0]
        if word in FUNCTIONS:
            return rf"\{word}"
        return rf"\mathrm{{{word}}}" if len(word) > 2 and word.isalpha() else latex(word) or word

    def small(self, signs: dict[str, str], mark: str) -> str:
        found = ""
        while self.at < len(self.text) and self.text[self.at] in signs:
            found += signs[self.text[self.at]]
            self.at += 1
        return f"{mark}{{{found}}}"

    def accented(self, letter: str) -> str:
        """Return a letter, with the accents that follow it."""
        while self.at < len(self.text) and self.text[self.at] in ACCENTS:
            letter = rf"\{ACCENTS[self.text[self.at]]}{{{letter}}}"
            self.at += 1
        return letter

    def word(self, word: str) -> str:
        follows = self.text[self.at + len(word) :][:1]
        if follows in ACCENTS and len(word) > 1:
            word = word[:-1]
        if len(word) == 1:
            self.at += 1
            return self.accented(word)
        self.at += len(word)
        if word in FUNCTIONS:
            return rf"\{word}"
        if word in OPERATORS:
            return rf"\operatorname{{{word}}}"
        if word in NAMES_OF_LETTERS:
            return rf"\{word}"
        if len(word) > 3 or word in WORDS:
            digits = re.match(r"\w*", self.text[self.at :])
            assert digits is not None
            self.at += digits.end()
            return rf"\text{{{word}{digits[0]}}}".replace("_", r"\_")
        return word

    def sign(self, rest: str) -> str:
        self.at += 1
        sign = rest[0]
        if sign in self.bars:
            self.bars[sign] = not self.bars[sign]
            name = {"‖": "Vert", "|": "vert"}[sign]
            return rf"\{'l' if self.bars[sign] else 'r'}{name} "
        if sign in "({":
            inner = self.all({"(": ")", "{": "}"}[sign])
            return f"({inner})" if sign == "(" else rf"\{{{inner}\}}"
        if sign == "∓" and rest[1:2] == "(":  # both signs of an index
            return r"^{\mp}"
        if sign in GREEK:
            return self.accented(rf"\{GREEK[sign]}")
        if sign in SIGNS:
            return SIGNS[sign] + (" " if SIGNS[sign].startswith("\\") else "")
        return {"*": "^*", "}": r"\}"}.get(sign, sign)
