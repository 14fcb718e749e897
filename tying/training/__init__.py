"""Training: the trainer, its optimizer, its checkpoints, and the record of each decision. Knows tasks, not languages."""
