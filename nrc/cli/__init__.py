"""The commands. Hydra and argparse live here alone."""
