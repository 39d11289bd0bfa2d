#!/usr/bin/env bash
# From a fresh machine to a scoreboard in minutes: set-up, generated scenes, distillation, transfer, leaderboard.
# Everything lands in demo/ and runs/demo/. A second call starts at once and runs only what is missing.
set -euo pipefail
source "$(dirname "$0")/venv.sh"
echo "1. scenes: images, masks and boxes in the formats of ImageFolder, VOC, ADE20K and COCO"
.venv/bin/python -m kdep_benchmarks.data.scenes.make demo/scenes
echo "2. pretrain: EfficientNet-Lite0 (ImageNet) -> ResNet-18, without labels"
.venv/bin/kdep pretrain demo
echo "3. transfer: the student and its random initialisation, on classification, segmentation and detection"
.venv/bin/kdep transfer runs/demo/student.pth random:resnet18 --suite demo --data-root demo --results demo/results
echo "open demo/results/leaderboard.html"
