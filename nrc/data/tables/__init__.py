"""Files of numbers: csv, npz, npy, HDF5, parquet."""

from nrc.data.tables.files import Columns, read, read_pair
from nrc.data.tables.table import Table

__all__ = ["Columns", "Table", "read", "read_pair"]
