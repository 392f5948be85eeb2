"""The command line. It only reads arguments and prints. Slow imports wait until a command needs them."""

from linflow.cli import explorer, figures, literature, models, study, sweeping
from linflow.cli._app import app, main

__all__ = ["app", "explorer", "figures", "literature", "main", "models", "study", "sweeping"]
