"""What pyproject.toml cannot say: the wheel carries conf/, scripts/ and data/ inside the package (nrc/places.py)."""

from setuptools import find_packages, setup

CARRIED = {f"nrc._project.{name}": name for name in ("conf", "scripts", "data")}

setup(packages=[*find_packages(include=["nrc", "nrc.*"]), *CARRIED], package_dir=CARRIED)
