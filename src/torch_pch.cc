// Owner of the precompiled LibTorch header; holds no code.
