"""What a GPU does that meta tensors do not: its kernels, their memory, and torch's allocator."""
