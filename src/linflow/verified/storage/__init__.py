"""Verified runs on disk: written as NetCDF, and read back with every bound that they prove."""
