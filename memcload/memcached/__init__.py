"""Everything that is about memcached: its protocol, batches, connections, servers and routing."""
