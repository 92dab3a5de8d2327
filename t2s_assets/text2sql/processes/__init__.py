"""Processes that work together: started, told to stop, kept apart, and what they tell each other."""
