"""Starts designed for a rate, and what holds a start back."""
