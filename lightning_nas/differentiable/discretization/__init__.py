"""From alphas to an architecture."""
