#!/usr/bin/env bash
# Run the demo: set up .venv, draw scenes, distil a student, measure it, write the board.
# All files are in demo/ and runs/demo/. A second call runs only what is missing.
set -euo pipefail
source "$(dirname "$0")/venv.sh"
cd "$root"
echo "1. scenes: images, masks and boxes in the formats of ImageFolder, VOC, ADE20K and COCO"
.venv/bin/kdep data prepare scenes --data-root demo
echo "2. pretrain: EfficientNet-Lite0 (ImageNet) -> ResNet-18, without labels"
.venv/bin/kdep pretrain demo
echo "3. transfer: the student and its random initialisation, on classification, segmentation and detection"
.venv/bin/kdep transfer runs/demo/student.pth random:resnet18 --suite demo --data-root demo --results demo/results --jobs 2
echo "open demo/results/leaderboard.html"
