"""Looking prepared data over: what is wrong, what training on it would take, whether it may train."""
