// Owner of a precompiled header; holds no code.
