"""Imbalance, which the flow conserves; the operator T, which determines its rate; and the reduction of the width."""
