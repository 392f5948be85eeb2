"""Slow, literal twins of what the package computes: the ground truth of its tests, never imported by it."""
