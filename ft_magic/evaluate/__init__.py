"""Is the trained model better? Held-out loss, answers before and after, a score of one's own."""
