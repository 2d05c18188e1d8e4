"""Code that jobs share; imports no job and no scheduler."""
