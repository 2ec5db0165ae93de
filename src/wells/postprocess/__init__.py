"""From probabilities of wells to masks: smoothing, refinement, and their selection out of fold."""
