"""Slow, obvious Python twins of the compiled loops.

They are the definition in tests, and the fall-back where there is no compiler.
"""
