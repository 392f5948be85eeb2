"""One-place errors in the formulas, and whether the tests see them: `make mutants`."""
