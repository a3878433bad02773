"""Attention inside the mixtures."""
