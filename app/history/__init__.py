"""What pages showed before, looked at again without the model: page, API, file."""
