"""A load on more than one host, by the workers of a Dask cluster: windows of records whose delivery may be repeated."""
