"""The staleness marker: a series ended here (source: prometheus model/value/value.go)."""

STALE_BITS = 0x7FF0000000000002
"""Its bit pattern, a signalling NaN. Compare bits, never values."""
