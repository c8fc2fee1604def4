"""What a user passes is checked here, once; the message names the argument and the fix."""
