"""Terms of the alphas' loss."""
