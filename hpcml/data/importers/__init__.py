"""Other people's files as rows: CSV, NPY, NPZ, IDX, image folders, Parquet.

A source becomes parts (a file, or a block of images). Each part is scanned once, whole, by somebody: its rows, its fields,
everything wrong with it. The scans together settle the fields; then any run of rows can be read, by anybody.
"""

from hpcml.data.importers.assembly import Assembly, find_parts, scan_part
from hpcml.data.importers.options import Options

__all__ = ["Assembly", "Options", "find_parts", "scan_part"]
