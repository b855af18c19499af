"""Measurements as functions that return numbers: the suite calls them at tiny size, the command line prints them."""
