"""Predictors of what architectures are worth, and searches that use them."""
