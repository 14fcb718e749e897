"""Data: a corpus (text), a tokenizer, and memory-mapped tokens in three splits: train, reward, test."""
