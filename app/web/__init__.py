"""What every answer shares: who may ask, errors, words, files, rendering."""
