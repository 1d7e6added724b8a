"""Cases of reference numbers, computed with the research code, run through this library: `python -m tests.golden`."""
