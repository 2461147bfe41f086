"""The study of the paper's findings: experiments, the rules to judge them, tables and figures."""
