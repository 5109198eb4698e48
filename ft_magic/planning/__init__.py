"""Planning: every number of a run decided before it starts, each with its reason."""
