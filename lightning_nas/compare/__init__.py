"""Comparisons of methods: many runs from one YAML file, and their statistics."""
