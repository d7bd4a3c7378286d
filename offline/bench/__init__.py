"""``ranktower bench``: how many requests a second a running service answers inside a budget."""
