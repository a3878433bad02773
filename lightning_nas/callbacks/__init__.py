"""Callbacks for any task."""
