"""Pure functions of numpy arrays: no paths, no ids, no data frames, no hidden randomness."""
