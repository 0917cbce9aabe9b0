"""The rooms that both loaders share: from a log file to records acknowledged by memcached."""

__version__ = "1.0.0"
