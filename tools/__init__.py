"""What developing and showing MemcLoad takes: logs, servers, a demonstration."""
