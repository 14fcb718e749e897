"""Scripts a person runs: train, sample, bench."""
