"""Work that takes longer than a request: queued, followed, cancelled, remembered."""
