"""The literature that results rest on, as BibTeX."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol, runtime_checkable

_LATEX = {"ï": r"{\"\i}", "é": r"{\'e}", "ö": r"{\"o}", "ø": r"{\o}", "ç": r"{\c c}", "Ł": r"{\L}", "–": "--"}

# Letters are in Unicode here and in LaTeX in what is printed; a line that begins with four spaces continues the one
# before it.
_BIBLIOGRAPHY = """
@inproceedings{arora2018,
  author = {Arora, Sanjeev and Cohen, Nadav and Hazan, Elad},
  title = {{On the Optimization of Deep Networks: Implicit Acceleration by Overparameterization}},
  booktitle = {International Conference on Machine Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {80},
  pages = {244–253},
  eprint = {1802.06509}, archiveprefix = {arXiv},
  year = {2018},
}

@inproceedings{arora2019convergence,
  author = {Arora, Sanjeev and Cohen, Nadav and Golowich, Noah and Hu, Wei},
  title = {{A Convergence Analysis of Gradient Descent for Deep Linear Neural Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {1810.02281}, archiveprefix = {arXiv},
  year = {2019},
}

@inproceedings{arora2019exact,
  author = {Arora, Sanjeev and Du, Simon S. and Hu, Wei and Li, Zhiyuan and Salakhutdinov, Ruslan and Wang,
    Ruosong},
  title = {{On Exact Computation with an Infinitely Wide Neural Net}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32},
  eprint = {1904.11955}, archiveprefix = {arXiv},
  year = {2019},
}

@inproceedings{braun2022,
  author = {Braun, Lukas and Dominé, Clémentine C. J. and Fitzgerald, James E. and Saxe, Andrew M.},
  title = {{Exact Learning Dynamics of Deep Linear Networks with Prior Knowledge}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {35},
  year = {2022},
}

@inproceedings{chizat2019,
  author = {Chizat, Lénaïc and Oyallon, Edouard and Bach, Francis},
  title = {{On Lazy Training in Differentiable Programming}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32},
  eprint = {1812.07956}, archiveprefix = {arXiv},
  year = {2019},
}

@inproceedings{domine2024,
  author = {Dominé, Clémentine C. J. and Anguita, Nicolas and Proca, Alexandra M. and Braun, Lukas and Kunin,
    Daniel and Mediano, Pedro A. M. and Saxe, Andrew M.},
  title = {{From Lazy to Rich: Exact Learning Dynamics in Deep Linear Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {2409.14623}, archiveprefix = {arXiv},
  year = {2025},
}

@inproceedings{du2018,
  author = {Du, Simon S. and Hu, Wei and Lee, Jason D.},
  title = {{Algorithmic Regularization in Learning Deep Homogeneous Models: Layers are Automatically Balanced}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {31},
  eprint = {1806.00900}, archiveprefix = {arXiv},
  year = {2018},
}

@inproceedings{duhu2019,
  author = {Du, Simon S. and Hu, Wei},
  title = {{Width Provably Matters in Optimization for Deep Linear Neural Networks}},
  booktitle = {International Conference on Machine Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {97},
  pages = {1655–1664},
  eprint = {1901.08572}, archiveprefix = {arXiv},
  year = {2019},
}

@inproceedings{fukumizu1998,
  author = {Fukumizu, Kenji},
  title = {{Effect of Batch Learning in Multilayer Neural Networks}},
  booktitle = {International Conference on Neural Information Processing (ICONIP)},
  year = {1998},
}

@inproceedings{gidel2019,
  author = {Gidel, Gauthier and Bach, Francis and Lacoste-Julien, Simon},
  title = {{Implicit Regularization of Discrete Gradient Dynamics in Linear Neural Networks}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {32},
  pages = {3202–3211},
  eprint = {1904.13262}, archiveprefix = {arXiv},
  year = {2019},
}

@book{hairer1993,
  author = {Hairer, Ernst and Nørsett, Syvert P. and Wanner, Gerhard},
  title = {{Solving Ordinary Differential Equations I: Nonstiff Problems}},
  publisher = {Springer},
  edition = {Second},
  series = {Springer Series in Computational Mathematics},
  volume = {8},
  year = {1993},
}

@inproceedings{jacot2018,
  author = {Jacot, Arthur and Gabriel, Franck and Hongler, Clément},
  title = {{Neural Tangent Kernel: Convergence and Generalization in Neural Networks}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {31},
  eprint = {1806.07572}, archiveprefix = {arXiv},
  year = {2018},
}

@inproceedings{ji2019,
  author = {Ji, Ziwei and Telgarsky, Matus},
  title = {{Gradient Descent Aligns the Layers of Deep Linear Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {1810.02032}, archiveprefix = {arXiv},
  year = {2019},
}

@inproceedings{karimi2016,
  author = {Karimi, Hamed and Nutini, Julie and Schmidt, Mark},
  title = {{Linear Convergence of Gradient and Proximal-Gradient Methods Under the Polyak–Łojasiewicz Condition}},
  booktitle = {Machine Learning and Knowledge Discovery in Databases (ECML PKDD)},
  pages = {795–811},
  eprint = {1608.04636}, archiveprefix = {arXiv},
  year = {2016},
}

@inproceedings{li2021glrl,
  author = {Li, Zhiyuan and Luo, Yuping and Lyu, Kaifeng},
  title = {{Towards Resolving the Implicit Bias of Gradient Descent for Matrix Factorization: Greedy Low-Rank
    Learning}},
  booktitle = {International Conference on Learning Representations},
  eprint = {2012.09839}, archiveprefix = {arXiv},
  year = {2021},
}

@inproceedings{li2021sparse,
  author = {Li, Jiangyuan and Nguyen, Thanh V. and Hegde, Chinmay and Wong, Raymond K. W.},
  title = {{Implicit Sparse Regularization: The Impact of Depth and Early Stopping}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  eprint = {2108.05574}, archiveprefix = {arXiv},
  year = {2021},
}

@software{linflow,
  author = {{The linflow developers}},
  title = {{linflow: certified convergence rates of gradient flow on multi-layer linear models}},
  version = {0.1.0},
  license = {MIT},
  year = {2026},
}

@inproceedings{lyu2020,
  author = {Lyu, Kaifeng and Li, Jian},
  title = {{Gradient Descent Maximizes the Margin of Homogeneous Neural Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {1906.05890}, archiveprefix = {arXiv},
  year = {2020},
}

@inproceedings{min2021,
  author = {Min, Hancheng and Tarmoun, Salma and Vidal, René and Mallada, Enrique},
  title = {{On the Explicit Role of Initialization on the Convergence and Implicit Bias of Overparametrized
    Linear Networks}},
  booktitle = {International Conference on Machine Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {139},
  eprint = {2105.06351}, archiveprefix = {arXiv},
  year = {2021},
}

@inproceedings{min2023,
  author = {Min, Hancheng and Vidal, René and Mallada, Enrique},
  title = {{On the Convergence of Gradient Flow on Multi-layer Linear Models}},
  booktitle = {International Conference on Machine Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {202},
  pages = {24850–24887},
  year = {2023},
}

@article{polyak1963,
  author = {Polyak, Boris T.},
  title = {{Gradient Methods for the Minimisation of Functionals}},
  journal = {USSR Computational Mathematics and Mathematical Physics},
  volume = {3},
  number = {4},
  pages = {864–878},
  year = {1963},
}

@inproceedings{saxe2014,
  author = {Saxe, Andrew M. and McClelland, James L. and Ganguli, Surya},
  title = {{Exact Solutions to the Nonlinear Dynamics of Learning in Deep Linear Neural Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {1312.6120}, archiveprefix = {arXiv},
  year = {2014},
}

@article{soudry2018,
  author = {Soudry, Daniel and Hoffer, Elad and Nacson, Mor Shpigel and Gunasekar, Suriya and Srebro, Nathan},
  title = {{The Implicit Bias of Gradient Descent on Separable Data}},
  journal = {Journal of Machine Learning Research},
  volume = {19},
  number = {70},
  eprint = {1710.10345}, archiveprefix = {arXiv},
  year = {2018},
}

@inproceedings{stoger2021,
  author = {Stöger, Dominik and Soltanolkotabi, Mahdi},
  title = {{Small Random Initialization is Akin to Spectral Learning: Optimization and Generalization
    Guarantees for Overparameterized Low-Rank Matrix Reconstruction}},
  booktitle = {Advances in Neural Information Processing Systems},
  volume = {34},
  eprint = {2106.15013}, archiveprefix = {arXiv},
  year = {2021},
}

@inproceedings{tarmoun2021,
  author = {Tarmoun, Salma and França, Guilherme and Haeffele, Benjamin D. and Vidal, René},
  title = {{Understanding the Dynamics of Gradient Flow in Overparameterized Linear Models}},
  booktitle = {International Conference on Machine Learning},
  series = {Proceedings of Machine Learning Research},
  volume = {139},
  year = {2021},
}

@inproceedings{xu2023,
  author = {Xu, Ziqing and Min, Hancheng and Tarmoun, Salma and Mallada, Enrique and Vidal, René},
  title = {{Linear Convergence of Gradient Descent for Finite Width Over-parametrized Linear Networks with
    General Initialization}},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  series = {Proceedings of Machine Learning Research},
  volume = {206},
  pages = {2262–2284},
  year = {2023},
}

@article{xu2025,
  author = {Xu, Ziqing and Min, Hancheng and Tarmoun, Salma and Mallada, Enrique and Vidal, René},
  title = {{A Local Polyak–Łojasiewicz and Descent Lemma of Gradient Descent for Overparametrized Linear Models}},
  journal = {Transactions on Machine Learning Research},
  eprint = {2505.11664}, archiveprefix = {arXiv},
  year = {2025},
}

@inproceedings{xu2025lora,
  author = {Xu, Ziqing and Min, Hancheng and MacDonald, Lachlan Ewen and Luo, Jinqi and Tarmoun, Salma and Mallada,
    Enrique and Vidal, René},
  title = {{Understanding the Learning Dynamics of LoRA: A Gradient Flow Perspective on Low-Rank Adaptation in Matrix
    Factorization}},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  series = {Proceedings of Machine Learning Research},
  volume = {258},
  eprint = {2503.06982}, archiveprefix = {arXiv},
  year = {2025},
}

@inproceedings{yun2021,
  author = {Yun, Chulhee and Krishnan, Shankar and Mobahi, Hossein},
  title = {{A Unifying View on Implicit Bias in Training Linear Neural Networks}},
  booktitle = {International Conference on Learning Representations},
  eprint = {2010.02501}, archiveprefix = {arXiv},
  year = {2021},
}
"""


@dataclass(frozen=True)
class Reference:
    """One entry of the bibliography.

    Attributes:
        key: what results cite it by.
        title: in Unicode.
        bibtex: the entry, in ASCII.
    """

    key: str
    title: str
    bibtex: str

    @classmethod
    def parse(cls, entry: str) -> Reference:
        """Return the reference of one entry of the bibliography."""
        entry = entry.strip().replace("\n    ", " ")
        key, title = (_group(pattern, entry) for pattern in (r"^@\w+\{(\w+),", r"\btitle = \{\{(.*)\}\},"))
        for letter, code in _LATEX.items():
            entry = entry.replace(letter, code)
        return cls(key, title, entry)


def _group(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise ValueError(f"the entry {text!r} does not have the form {pattern!r}.")
    return found.group(1)


REFERENCES: dict[str, Reference] = {
    reference.key: reference for reference in map(Reference.parse, _BIBLIOGRAPHY.strip().split("\n\n"))
}


def select(keys: Iterable[str]) -> list[Reference]:
    """Return the references of these keys, in alphabetical order and each once.

    Raises:
        ValueError: an unknown key; the text gives the nearest ones.
    """
    wanted = sorted(set(keys))
    for key in wanted:
        if key not in REFERENCES:
            near = get_close_matches(key, REFERENCES, n=3, cutoff=0.4)
            hint = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
            raise ValueError(f"there is no reference {key!r}.{hint} `linflow cite --list` shows all of them.")
    return [REFERENCES[key] for key in wanted]


@runtime_checkable
class Cited(Protocol):
    """What rests on references: certificates, runs, guarantees, theorems and bounds."""

    @property
    def citations(self) -> frozenset[str]:
        """Keys of the references."""
        ...


def cite(x: Any) -> str:
    """Return the BibTeX of what a result rests on.

    Args:
        x: a `Certificate` (the guarantees that apply, and the theory of its objective), a `Trajectory` (the
            integrator of a flow), a `Guarantee`, a bound, or keys: one, or a list of any of these.

    Returns:
        Entries in alphabetical order of their keys, each once. Those of a certificate and of a run include the
        software.

    Raises:
        ValueError: an unknown key.
        TypeError: something that rests on no reference.

    Example:
        >>> import linflow as lf
        >>> from linflow._support.references import cite
        >>> print(cite("linflow"))
        @software{linflow,
          author = {{The linflow developers}},
          title = {{linflow: certified convergence rates of gradient flow on multi-layer linear models}},
          version = {0.1.0},
          license = {MIT},
          year = {2026},
        }
    """
    return "\n\n".join(reference.bibtex for reference in select(_keys(x)))


def _keys(x: Any) -> set[str]:
    """Return the keys that a result rests on."""
    if isinstance(x, str):
        return {x}
    if isinstance(x, (list, tuple, set, frozenset)):
        return set().union(*(_keys(part) for part in x))
    if isinstance(x, Cited):
        return set(x.citations)
    raise TypeError(
        f"x is a {type(x).__name__}, which rests on no reference; a Certificate, a Trajectory, a Guarantee, a bound, "
        "a key such as 'min2023', or a list of these, is needed."
    )
