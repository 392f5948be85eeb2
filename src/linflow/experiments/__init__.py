"""Experiment files, their analysis, and the figures of the papers."""
