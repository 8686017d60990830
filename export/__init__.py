"""Publish trained weights into the model repository. Every file is proven in the runtime that serves it before it is
published."""
