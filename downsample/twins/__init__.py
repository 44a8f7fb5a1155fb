"""Slow, obvious Python twins of the compiled kernels."""
