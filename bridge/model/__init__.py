"""Pure values that every part speaks in: labels, matchers, time ranges, staleness."""
