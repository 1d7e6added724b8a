"""A request body into a job: fields, images, defaults, warnings."""
