#!/usr/bin/env bash
# Installs what is missing, trains panoptic DETR on the generated Shapes dataset, evaluates it and draws what it learned.
# usage: bash tools/quickstart.sh [OUTPUT_DIR]      (default: output/quickstart; 10 to 25 minutes on two CPU cores)
# The same folder again: goes on where it was stopped, or evaluates and draws once more.
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
python tools/train_net.py --config-file configs/Shapes/panoptic_detr_R_18.yaml --num-gpus "$processes" --resume \
  OUTPUT_DIR "$output"
python tools/plot_logs.py "$output" --metric panoptic_seg/PQ --over iterations --output "$output/curves.png"
python tools/visualize_results.py --input "$output/inference/shapes_val/panoptic_predictions.json" --dataset shapes_val \
  --output "$output/sheet.png" --num 6 --columns 1 --height 200 --queries 2 \
  --config-file "$output/config.yaml" MODEL.WEIGHTS "$output/model_final.pth"
echo "Done in $((($(date +%s) - start) / 60)) minutes. In $output:"
echo "  metrics.json, curves.png (loss and PQ over time), sheet.png (ground truth, prediction, where queries look), model_final.pth"
python - "$output" <<'PYTHON'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1] + "/metrics.json")]
last = [line for line in lines if "panoptic_seg/PQ" in line][-1]
names = {"PQ": "panoptic_seg/PQ", "PQ_th": "panoptic_seg/PQ_th", "PQ_st": "panoptic_seg/PQ_st"}
names |= {"box AP": "bbox/AP", "mask AP": "segm/AP"}
print("  held-out images: " + ", ".join(f"{name} {last[key]:.1f}" for name, key in names.items()))
PYTHON
