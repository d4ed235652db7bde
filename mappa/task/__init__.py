"""Task sets: a new task or dataset is one file here and one yaml in conf/task."""
