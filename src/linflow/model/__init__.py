"""What is trained: networks of linear layers, objectives on their product, and weights made to order."""
