"""What the commands do, from a configuration to files and tables: train, evaluate, predict, benchmark."""
