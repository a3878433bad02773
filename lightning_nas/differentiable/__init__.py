"""Components of differentiable search, a folder a family."""
