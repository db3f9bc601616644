"""``era-zoo``: train, watch, film, plot and tune agents over rl_zoo3, from data-only configurations."""
