"""External programs: discovery, plans, and the one place that runs them."""
