"""The open model as handlers see it: who asks, which one answers, the page Model."""
