"""prombridge: the long-term memory of Prometheus."""
