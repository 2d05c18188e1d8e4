"""Amazon EMR: steps on clusters, and EMR Serverless."""
