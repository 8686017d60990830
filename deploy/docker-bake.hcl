# Builds the images for amd64 and arm64, with provenance: make -C deploy publish REGISTRY=HOST/NAME
# An emulator (Debian's qemu-user-binfmt) or a builder with a node of each architecture has to be there.

variable "REGISTRY" { default = "hangtag" }
variable "VERSION" { default = "unknown" }
variable "REVISION" { default = "unknown" }

group "default" { targets = ["cpu", "client", "gpu"] }

target "image" {
  context    = "."
  dockerfile = "deploy/Dockerfile"
  platforms  = ["linux/amd64", "linux/arm64"]
  args       = { VERSION = VERSION, REVISION = REVISION }
  attest     = ["type=provenance,mode=max"]
}

target "cpu" {
  inherits = ["image"]
  target   = "cpu"
  tags     = ["${REGISTRY}:${VERSION}-cpu", "${REGISTRY}:cpu"]
}

target "client" {
  inherits = ["image"]
  target   = "client"
  tags     = ["${REGISTRY}:${VERSION}-client", "${REGISTRY}:client"]
}

# On arm64 this is for NVIDIA's Grace with a GPU.
target "gpu" {
  inherits = ["image"]
  target   = "gpu"
  tags     = ["${REGISTRY}:${VERSION}-gpu", "${REGISTRY}:gpu"]
}
