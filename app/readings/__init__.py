"""What reads the open model best: temperatures, the dial, lenses; measured once, as a job."""
