"""Where the logs come from: finding, locking, reading and renaming them."""
