"""Pages to read: templates, typeset formulas, and the reports of figures, analyses and sweeps."""
