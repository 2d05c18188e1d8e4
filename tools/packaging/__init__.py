"""Build products of jobs: fingerprints, images, bundles, and their contents."""
