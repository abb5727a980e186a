"""External programs: which are found, what a plan runs, and how."""
