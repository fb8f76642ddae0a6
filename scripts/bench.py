"""See `nrc.cli.bench`."""

from nrc.cli.early import bench

if __name__ == "__main__":
    bench()
