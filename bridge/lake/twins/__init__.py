"""Slow, obvious Python twins of the compiled row kernels."""
