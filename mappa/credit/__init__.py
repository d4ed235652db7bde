"""Credit: judged actions -> advantages. A new scheme is one file here and one yaml in conf/credit."""
