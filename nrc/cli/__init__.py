"""The commands. Hydra and argparse live here alone.

Two dialects, and no third: what trains one network or a sweep of one's own (`train.py`, `sweep.py`) takes Hydra's
settings, `data=reacher seed=0,1`; every other command takes options, `--dataset reacher`, with its subject first where
it has one (`bench.py stacked`). The variables of make are the options in capitals, `DATASET=reacher`.
"""
