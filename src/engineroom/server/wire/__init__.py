"""What bodies look like, as pydantic models; one file for each family of routes."""
