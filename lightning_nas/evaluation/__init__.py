"""Evaluators of architectures."""
