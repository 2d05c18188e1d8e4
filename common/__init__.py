"""What jobs share; imports no job and no scheduler."""
