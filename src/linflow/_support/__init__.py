"""What every floor stands on: arrays, checks of input, threads, paths, provenance and references."""
