"""Remote read: from matchers and hints to frames."""
