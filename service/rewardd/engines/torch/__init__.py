"""The torch engine: transformers bodies, our heads, and a forward that computes no token twice."""
