"""The paper's two training stages, and "scenes", the model that ships with the package."""
