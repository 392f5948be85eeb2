"""Runs on disk: written as NetCDF and restored to the last bit."""
