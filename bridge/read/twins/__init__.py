"""Slow, obvious Python twins of the compiled kernel of `bridge.read`."""
