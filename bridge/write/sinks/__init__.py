"""Where accepted samples go."""
