"""What a GPU makes of the paper's networks. `python -m benchmarks.gpu --help` says what is measured."""
