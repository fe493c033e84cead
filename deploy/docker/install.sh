#!/bin/sh
# What the Dockerfile installs, in the folder that has pyproject.toml and constraints.txt.
#   PYTHON=python3 TORCH_INDEX=… EXTRAS=… sh install.sh
set -eu
PYTHON="${PYTHON:-python}"
torch="$(sed -n 's/^torch==//p' constraints.txt)"
if [ -n "${TORCH_INDEX:-}" ]; then
  "$PYTHON" -m pip install --no-cache-dir --quiet "torch==${torch%%+*}" --index-url "$TORCH_INDEX"
fi
"$PYTHON" -m pip install --no-cache-dir --quiet -c constraints.txt ".${EXTRAS:+[$EXTRAS]}"
"$PYTHON" -c "import semrec_ray.serve.app, torch; print('semrec_ray', semrec_ray.__version__, 'torch', torch.__version__)"
