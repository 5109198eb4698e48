"""Shaping: which column plays which role, and records as normalised rows of one signal."""
