"""The write-ahead log: what a 2xx stands for."""
