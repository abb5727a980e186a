"""The same vectors through every stage, compared with ==."""
