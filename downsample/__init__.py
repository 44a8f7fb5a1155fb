"""Rolls raw samples up into 5 m and 1 h aggregates, compacts, and applies retention."""
