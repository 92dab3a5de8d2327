"""The `report` of an experiment: its figures, its page, and how it stands beside others."""
