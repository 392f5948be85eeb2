"""Starts made for a rate, and what holds a start back."""
