"""Model repositories in object stores and registries: ``snapshot`` opens a store, reads its content and fetches files,
``registry`` does so in a registry of images, ``mirror`` keeps a local copy, from which a server serves, ``transfer``
pushes and pulls models, and ``location`` knows obstore and its errors."""
