"""Files on disk: where they are (`run`), what they are made from (`lineage`), how they are kept."""
