"""Exact graph-to-graph passes that back ends share."""
