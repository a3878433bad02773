"""Strategies: what proposes architectures and learns from their evaluations."""
