"""Properties that hold for every input, tried on inputs that hypothesis makes up: the same ones in every run."""
