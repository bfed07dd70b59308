#!/usr/bin/env bash
# The runs of the study, one bed at a time, the ones that separate recipes first: scripts/study.sh g2p, or glyphs.
#
# Each line goes on where it was cut off, and trains nothing that its results folder has already; a line that repeats
# another one with more seeds extends it. A run takes about two minutes of one core, all of a bed some 20 hours.
set -euo pipefail
bed=$1
case $bed in
  g2p) every=100 dense='[1.5e-3,3e-3,6e-3,1.2e-2]' methods=1.2e-2 ;;
  glyphs) every=200 dense='[3e-3,6e-3,1.2e-2]' methods=6e-3 ;;
  *) echo "$bed: allowed: g2p, glyphs" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1
sweep() { nmtrain -m measure.every="$every" results_dir="results/study/$bed" "$@"; }
all=mdgf_exponential,sr_ste,static,gmp
wide='tune={optim.lr:[3e-3,6e-3,1.2e-2,2.4e-2]}'
grid='tune={optim.lr:[3e-3,6e-3,1.2e-2]}'
high='tune={optim.lr:[6e-3,1.2e-2,2.4e-2]}'

# The pilot: FF sparse at three patterns, every role sparse at 1:32.
sweep experiment="study/$bed" recipe=dense 'measure.patterns=[1:8,1:32,1:64]' seed=0,1,2 "tune={optim.lr:$dense}"
sweep experiment="study/${bed}_all" recipe=mdgf_exponential,sr_ste,gmp sparsity=1:32 seed=0,1,2 "$wide"
sweep experiment="study/$bed" recipe=mdgf_exponential,sr_ste,gmp sparsity=1:32,1:8,1:64 seed=0,1,2 "$grid"
# Every method at 1:32, one seed, at one learning rate.
methods=optim.lr=$methods
nmtrain -m measure.every="$every" results_dir=results/study/methods data.evaluate=test experiment="study/${bed}_all" \
  recipe="$all,rigl,ste,sdgf_stepwise,sdgf_geometric,mdgf_linear,s_ste,step,top_kast,feather,ac_dc,asp,maxq" \
  sparsity=1:32 seed=0 "$methods"
# Every role sparse at 1:32: what the decay does and what the gradient rule does, with more seeds each time round.
for seeds in 0,1,2 0,1,2,3,4 0,1,2,3,4,5,6,7; do
  sweep experiment="study/${bed}_all" recipe="$all" sparsity=1:32 seed="$seeds" "$wide"
  sweep experiment="study/$bed" recipe=dense 'measure.patterns=[1:8,1:32,1:64]' seed="$seeds" "tune={optim.lr:$dense}"
done
sweep experiment="study/${bed}_all" recipe=mdgf_exponential recipe.gradient=straight_through sparsity=1:32 \
  seed=0,1,2,3,4 "$wide"
# The same at milder patterns.
sweep experiment="study/${bed}_all" recipe="$all" sparsity=1:8,1:16 seed=0,1,2,3,4 "$high"
