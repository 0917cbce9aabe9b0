"""From lines to batches of memcached commands."""
