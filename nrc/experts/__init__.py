"""The project's own MuJoCo experts: training, roll-out and recording as Minari data sets."""
