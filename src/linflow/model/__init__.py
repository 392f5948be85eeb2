"""Networks of linear layers, objectives on their product, and weights with prescribed properties."""
