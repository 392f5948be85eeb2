"""Helpers that every package uses: arrays, input checks, threads, paths, provenance and references."""
