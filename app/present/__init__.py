"""Stories for a stage: steps that are ordinary addresses, and claims that are computed again."""
