"""Data modules: where images come from, how they are split, loaded and augmented."""
