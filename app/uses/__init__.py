"""What the open model's semantic bases are for: page, API, job."""
