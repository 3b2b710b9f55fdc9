"""Data shipped with the package: platforms, models, stacks, public recipes and kernel profiles."""
