"""What the sandbox raises; never because of what agent code did inside `execute`."""


class SandboxError(RuntimeError):
    """Base of every error of this package."""


class SandboxUnavailableError(SandboxError):
    """This machine cannot isolate code as strongly as the configuration demands."""


class KernelStartError(SandboxError):
    """A kernel did not come up; the message carries the end of its log."""


class WorkspaceError(OSError):
    """A file name or file of the workspace that must not be followed, read or written."""
