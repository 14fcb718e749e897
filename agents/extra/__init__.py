"""Agents that no result recommends: kept for comparisons, under the same names on the command line."""
