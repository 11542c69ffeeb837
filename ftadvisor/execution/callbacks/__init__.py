"""What is done around each step. These modules import Transformers: `run` imports them late."""
