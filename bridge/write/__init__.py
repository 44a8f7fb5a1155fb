"""From an HTTP body to the WAL, the head and the lake."""
