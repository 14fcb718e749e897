"""Studies: many runs in parallel processes, their paired results, tables and pictures."""
