"""What is answered, and how the OpenAPI describes the answers."""
