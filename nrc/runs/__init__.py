"""The run directory: written by training, read by figures, report and checks."""

from nrc.runs.read import Run, Runs, commands, frame

__all__ = ["Run", "Runs", "commands", "frame"]
