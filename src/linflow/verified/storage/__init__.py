"""Verified runs on disk: written to NetCDF files and read back with every bound that they prove."""
