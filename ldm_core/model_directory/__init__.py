"""What a model directory holds, read from its JSON files. No torch."""
