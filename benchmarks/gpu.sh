#!/usr/bin/env bash
# The GPU kit: checks and measures this package on one GPU in about ten minutes, with torch and Triton alone.
#
#     bash benchmarks/gpu.sh [--out FOLDER]
#
# Writes gpu-sinkhorn.csv, gpu-training.csv, gpu-models.csv and gpu.log to the folder (benchmarks/results). A part that
# fails does not stop the others; the last line names those that failed, and the exit code is then 1.
set -u
root=$(cd "$(dirname "$0")/.." && pwd)
out=$root/benchmarks/results
if [ "${1:-}" = "--out" ]; then out=${2:?--out needs a folder}; fi
python=${PYTHON:-python3}
if ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())"; then
    echo "error: $python has no torch that sees a GPU; PYTHON=... names another one" >&2
    exit 2
fi
mkdir -p "$out" && : >"$out/gpu.log"
export PYTHONPATH=$root/src PYTHONUNBUFFERED=1
failed=""

part() { # name, seconds at most, command
    local name=$1 limit=$2 begin=$SECONDS
    shift 2
    echo "== $name" | tee -a "$out/gpu.log"
    timeout "$limit" "$@" 2>&1 | tee -a "$out/gpu.log"
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed="$failed $name"
    echo "== $name: $((SECONDS - begin)) s" | tee -a "$out/gpu.log"
}

# torch alone is enough for everything down to Ranker
part imports 60 "$python" -c "
import sys
import unimixer.metrics, unimixer.ranker
heavy = {'polars', 'pydantic', 'typer', 'yaml', 'pyarrow', 'scipy'} & set(sys.modules)
sys.exit(f'imported without need: {heavy}' if heavy else 0)"
if "$python" -c "import pytest" 2>/dev/null; then
    part tests 300 "$python" -m pytest -q --noconftest -p no:cacheprovider "$root/tests/ops/sinkhorn_triton_cases.py"
fi
part sinkhorn 180 "$python" -W ignore "$root/benchmarks/gpu/sinkhorn.py" --out "$out/gpu-sinkhorn.csv"
part training 240 "$python" -W ignore "$root/benchmarks/gpu/training.py" --out "$out/gpu-training.csv"
part models 900 "$python" -W ignore "$root/benchmarks/gpu/models.py" --out "$out/gpu-models.csv"

if [ -n "$failed" ]; then
    echo "failed:$failed" | tee -a "$out/gpu.log"
    exit 1
fi
echo "all parts passed" | tee -a "$out/gpu.log"
