"""Measurements as functions that return numbers; printing is for the caller."""
