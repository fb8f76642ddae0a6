"""The run directory: write, lock, checkpoint, and read."""
