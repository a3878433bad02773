"""A whole search from one YAML file."""
