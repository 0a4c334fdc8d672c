"""Figures, words for them, widgets, and the report."""
