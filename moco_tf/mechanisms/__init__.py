"""The paper's mechanism, Momentum Contrast, and the two that it is compared with."""
