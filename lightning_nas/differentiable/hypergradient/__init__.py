"""The gradient that the alphas follow."""
