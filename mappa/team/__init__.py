"""Team topologies: a new one is one file of plain async control flow here and one yaml in conf/team."""
