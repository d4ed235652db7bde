"""What speaks: the base model, its adapters, the tokenizer boundary and the forward pass."""
