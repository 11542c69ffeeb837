"""What a training program does with the model: batches, loss, objective, optimizer."""
