"""How kernels are launched: the fork server, what each level allows, and the choice among levels."""
