"""A run: its configuration, its command line, the job that trains it, and the files that it leaves."""
