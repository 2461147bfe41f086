"""The studies: of the paper's findings, of small data sets and of transfer."""
