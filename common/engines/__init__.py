"""Tables in and out of jobs: Spark frames, Arrow tables, arrays, and the matrix of interactions."""
