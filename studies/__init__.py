"""The study of the paper's findings, which study.py runs: its experiments, rules and pictures."""
