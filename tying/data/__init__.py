"""Data: a corpus (text), a tokenizer, and memory-mapped tokens in three splits: train, reward, test."""

from tying.data.corpora import DataConfig
from tying.data.tokens import SPLITS, TokenData, prepare

__all__ = ["SPLITS", "DataConfig", "TokenData", "prepare"]
