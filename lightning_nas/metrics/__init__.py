"""Measures of searches and networks."""
