"""The pages and the API: a module for each, with its query, its context and its views."""
