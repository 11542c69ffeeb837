"""One of several GPUs: what it holds of the model, gathers and reduces."""
