"""Comparability of edges."""
