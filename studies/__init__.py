"""The study of the paper's findings: its experiments, its rules, its tables and its figures."""
