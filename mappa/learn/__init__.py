"""How it is trained: Lightning's module and data module, batches and losses."""
