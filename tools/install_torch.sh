#!/bin/sh
# Installs PyTorch into the environment of the given Python: with CUDA where there is an NVIDIA GPU, else the CPU build,
# which is ten times smaller.
set -eu
python=$1
release=torch==2.13.0

if "$python" -c 'import torch' 2>/dev/null; then
    exit 0
fi
if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi >/dev/null 2>&1; then
    exec "$python" -m pip install --quiet "$release"
fi
# PyTorch's own index of CPU builds; where it cannot be reached, whatever pip is set up to use.
"$python" -m pip install --quiet --retries 0 --timeout 15 --index-url https://download.pytorch.org/whl/cpu "$release" 2>/dev/null ||
    "$python" -m pip install --quiet "$release"
