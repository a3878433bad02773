"""Reports of runs as web pages, and the pictures in them."""
