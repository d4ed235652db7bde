"""jupyter_client kernel provisioners that confine the kernel they launch, one file per way to do it."""
