"""From alphas to factors within an edge."""
