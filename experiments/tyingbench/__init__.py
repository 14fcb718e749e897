"""TyingBench: build a table, report what is in it, and judge agents by it."""
