#!/usr/bin/env bash
# Installs what is missing, trains DETR on the generated Shapes data set, evaluates it and draws what it learned.
# usage: bash tools/quickstart.sh [OUTPUT_DIR]      (default: output/quickstart; about 11 minutes on two CPU cores)
set -euo pipefail
repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
output=${1:-$repo/output/quickstart}
bash "$repo/tools/install.sh"
. "${VIRTUAL_ENV:-$repo/.venv}/bin/activate"
cd "$repo"
export DETECTRON2_DATASETS=$repo/datasets   # Shapes is generated here, whatever the variable named before

gpus=$(python -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -gt 0 ]; then processes=1; else processes=$(python -c 'import os; print(min(2, os.cpu_count() or 1))'); fi

start=$(date +%s)
python tools/generate_shapes.py
python tools/train_net.py --config-file configs/Shapes/detr_R_18.yaml --num-gpus "$processes" --dist-url auto \
  OUTPUT_DIR "$output"
python tools/plot_logs.py "$output" --output "$output/curves.png"
python tools/visualize_results.py --input "$output/inference/shapes_val/coco_instances_results.json" \
  --dataset shapes_val --output "$output/sheet.png"
echo "Done in $((($(date +%s) - start) / 60)) minutes. In $output:"
echo "  metrics.json, curves.png (loss and AP over time), sheet.png (ground truth beside prediction), model_final.pth"
python - "$output" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1] + "/metrics.json")]
last = [line for line in lines if "bbox/AP" in line][-1]
print(f"  held-out images: AP {last['bbox/AP']:.1f}, AP50 {last['bbox/AP50']:.1f}")
PYTHON
