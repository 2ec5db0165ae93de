"""The corridor: a file a stage, each a function that scripts, studies and trials call."""
