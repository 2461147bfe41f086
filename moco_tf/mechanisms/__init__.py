"""Momentum Contrast, and the two mechanisms that the paper compares it with."""
