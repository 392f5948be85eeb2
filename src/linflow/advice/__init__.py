"""Design of starts for a certified rate, and diagnosis of what limits a given start."""
