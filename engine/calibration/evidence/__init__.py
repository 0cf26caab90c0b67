"""What a calibration is worth: competitors, controls, intervals."""
