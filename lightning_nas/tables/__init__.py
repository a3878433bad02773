"""Tables of known results: NAS-Bench-101, NAS-Bench-201, those of any space, and a synthetic one."""

from lightning_nas.tables.base import Table
from lightning_nas.tables.nasbench101 import NASBench101Table
from lightning_nas.tables.nasbench201 import NASBench201Table
from lightning_nas.tables.official_nasbench101 import nasbench101_from_tfrecord
from lightning_nas.tables.official_nasbench201 import nasbench201_from_download
from lightning_nas.tables.official_nasbench_macro import nasbench_macro_from_json
from lightning_nas.tables.official_natsbench_size import natsbench_size_from_download
from lightning_nas.tables.space_table import SpaceTable, write_space_table
from lightning_nas.tables.synthetic import write_nasbench201

__all__ = [
    "NASBench101Table",
    "NASBench201Table",
    "SpaceTable",
    "Table",
    "nasbench101_from_tfrecord",
    "nasbench201_from_download",
    "nasbench_macro_from_json",
    "natsbench_size_from_download",
    "write_nasbench201",
    "write_space_table",
]
