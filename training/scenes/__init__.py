"""The little landscapes that the built-in models were trained on: scenes, their images and their captions."""
