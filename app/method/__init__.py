"""Each formula with its meaning, its source and its code: the page Method."""
