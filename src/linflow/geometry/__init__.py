"""What the flow conserves and what fixes its rate: the imbalance, the operator T, and the reduction of the width."""
