"""The hold of one worker on its jobs: from a queue into the engine, and results back."""
