"""Known results of architectures, read from files."""
