"""What runs inside the sandbox: confine this process, then become a Jupyter kernel.

Nothing here imports the rest of `sandbox`, and only the standard library is used until the confinement stands
(the fork server, which imports libraries first, runs no code of an agent).
"""
