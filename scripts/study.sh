#!/usr/bin/env bash
# The runs of the study, one bed at a time, what separates recipes first: scripts/study.sh g2p, or glyphs.
#
# Each line goes on where it was cut off, and trains nothing that its results folder has already; a line that repeats
# another one with more seeds extends it. A run takes some two minutes of one core; a bed has some 300.
set -euo pipefail
bed=$1
case $bed in
  g2p)
    every=100 dense='[1.5e-3,3e-3,6e-3,1.2e-2]' late=1.2e-2,2.4e-2 best=3e-3 methods=1.2e-2 budget=8.4537e11
    later=1.2e-2,2.4e-2,4.8e-2 short=6e-3,1.2e-2,2.4e-2,4.8e-2 full=1.7405e12
    ;;
  glyphs)
    every=200 dense='[3e-3,6e-3,1.2e-2]' late=6e-3,1.2e-2 best=6e-3 methods=6e-3 budget=1.65504e12
    later=6e-3,1.2e-2,2.4e-2 short=6e-3,1.2e-2,2.4e-2 full=3.85675e12
    ;;
  *) echo "$bed: allowed: g2p, glyphs" >&2; exit 2 ;;
esac
export OMP_NUM_THREADS=1
train() { nmtrain -m allow_changed=true measure.every="$every" "$@"; }
sweep() { train results_dir="results/study/$bed" "$@"; }
all=mdgf_exponential,sr_ste,static,gmp
five=0,1,2,3,4
wide='tune={optim.lr:[3e-3,6e-3,1.2e-2,2.4e-2]}'
grid='tune={optim.lr:[3e-3,6e-3,1.2e-2]}'
high='tune={optim.lr:[6e-3,1.2e-2,2.4e-2]}'
two='tune={optim.lr:[6e-3,1.2e-2]}'
low="tune={optim.lr:$dense}"
patterns='measure.patterns=[1:8,1:32,1:64]'

# The pilot: FF sparse at three patterns, every role sparse at 1:32.
sweep experiment="study/$bed" recipe=dense "$patterns" seed=0,1,2 "$low"
sweep experiment="study/${bed}_all" recipe=mdgf_exponential,sr_ste,gmp sparsity=1:32 seed=0,1,2 "$wide"
sweep experiment="study/$bed" recipe=mdgf_exponential,sr_ste,gmp sparsity=1:32,1:8,1:64 seed=0,1,2 "$grid"
# Every method at 1:32, one seed, at one learning rate.
train results_dir=results/study/methods data.evaluate=test experiment="study/${bed}_all" optim.lr="$methods" \
  recipe="$all,rigl,ste,sdgf_stepwise,sdgf_geometric,mdgf_linear,s_ste,step,top_kast,feather,ac_dc,asp,maxq" \
  sparsity=1:32 seed=0

# From here on every role is sparse. What the decay does, and what the gradient rule does.
sweep experiment="study/${bed}_all" recipe="$all" sparsity=1:32 seed=$five "$wide"
sweep experiment="study/$bed" recipe=dense "$patterns" seed=$five "$low"
# SR-STE's training FLOPs, spent by MDGF.
sweep experiment="study/${bed}_all" recipe=mdgf_exponential sparsity=1:32 train.flops=$budget seed=$five "$high"
# The search for a recipe of ours, on validation.
search() {
  nmtrain -m allow_changed=true measure=off results_dir="results/study/search/$bed" experiment="study/${bed}_all" \
    sparsity=1:32 "$@"
}
search recipe=mdgf_exponential recipe.finetune_fraction=0.7 optim.lr="$late" seed=100,101
search recipe=mdgf_exponential recipe.finetune_fraction=0.1,0.3,0.5 optim.lr="$methods" seed=100,101
for variant in recipe.gradient=0 recipe.tighten=true recipe.contenders=1; do
  search recipe=mdgf_exponential "$variant" optim.lr="$methods" seed=100
done
search recipe=mdgf_linear recipe.decay_power=3 optim.lr="$methods" seed=100
# What came of it: MDGF whose decay ends early.
brief() { train results_dir="results/study/brief/$bed" recipe=mdgf_exponential recipe.finetune_fraction=0.7 "$@"; }
brief experiment="study/${bed}_all" sparsity=1:32 seed=$five "tune={optim.lr:[$late]}"
# What the schedule does: cosine in place of wsd.
cosine() { train results_dir="results/study/cosine/$bed" optim.schedule=cosine sparsity=1:32 "$@"; }
cosine experiment="study/${bed}_all" recipe=mdgf_exponential,sr_ste seed=$five "$high"
cosine experiment="study/$bed" recipe=dense seed=100 optim.lr="$best"
# As the paper's code has it: gradients of pruned weights undamped.
sweep experiment="study/${bed}_all" recipe=mdgf_exponential recipe.gradient=straight_through sparsity=1:32 \
  seed=0,1,2 "$two"
# The paper's protocol: one learning rate, that of dense training, one cosine.
for recipes in sr_ste,mdgf_exponential,sdgf_stepwise mdgf_linear,sdgf_geometric; do
  train results_dir="results/study/protocol/$bed" data.evaluate=test optim.schedule=cosine optim.lr="$best" \
    experiment="study/${bed}_all" sparsity=1:32 seed=0,1,2 recipe=$recipes
done
# A milder pattern: does the gain grow with sparsity?
sweep experiment="study/${bed}_all" recipe=mdgf_exponential,sr_ste sparsity=1:8 seed=$five "$wide"
# SR-STE's training FLOPs, spent by static.
sweep experiment="study/${bed}_all" recipe=static sparsity=1:32 train.flops=$budget seed=$five "$two"
more=$five,5,6,7
# The paper's recipes, tuned in their end too.
sweep experiment="study/${bed}_all" recipe=mdgf_linear,sdgf_stepwise,sdgf_geometric sparsity=1:32 seed=0,1,2 \
  "tune={optim.lr:[3e-3,6e-3,1.2e-2],recipe.finetune_fraction:[0.1,0.5]}"
sweep experiment="study/${bed}_all" recipe=mdgf_exponential sparsity=1:32 seed=$more \
  "tune={optim.lr:[6e-3,1.2e-2,2.4e-2],recipe.finetune_fraction:[0.1,0.5,0.7]}"
# MDGF's training FLOPs, spent by SR-STE.
sweep experiment="study/${bed}_all" recipe=sr_ste sparsity=1:32 train.flops=$full seed=$five "$grid"
# Wider grids where the best rate was the largest, and more seeds.
brief experiment="study/${bed}_all" sparsity=1:32 seed=$five "tune={optim.lr:[$later]}"
sweep experiment="study/${bed}_all" recipe=mdgf_linear sparsity=1:32 seed=$five \
  "tune={optim.lr:[3e-3,6e-3,1.2e-2],recipe.finetune_fraction:[0.1,0.5]}"
sweep experiment="study/${bed}_all" recipe=sr_ste,static sparsity=1:32 seed=$more "$wide"
sweep experiment="study/${bed}_all" recipe=mdgf_exponential sparsity=1:32 train.flops=$budget seed=$more \
  "tune={optim.lr:[$short]}"
brief experiment="study/${bed}_all" sparsity=1:32 seed=$more "tune={optim.lr:[$later]}"
# A pattern between.
sweep experiment="study/${bed}_all" recipe=mdgf_exponential,sr_ste sparsity=1:16 seed=$five "$two"
# Milder patterns: no decay, and the paper's other recipes, tuned in their end too.
sweep experiment="study/${bed}_all" recipe=static sparsity=1:8 seed=$five "$high"
sweep experiment="study/${bed}_all" recipe=static sparsity=1:16 seed=$five "$two"
for recipe in mdgf_linear sdgf_stepwise; do
  sweep experiment="study/${bed}_all" recipe=$recipe sparsity=1:8 seed=0,1,2 \
    "tune={optim.lr:[6e-3,1.2e-2],recipe.finetune_fraction:[0.1,0.5]}"
done
# What of the field came nearest untuned.
for recipe in feather rigl ac_dc; do
  sweep experiment="study/${bed}_all" recipe=$recipe sparsity=1:32 seed=0,1,2 "$grid"
done
sweep experiment="study/${bed}_all" recipe=mdgf_exponential recipe.gradient=straight_through sparsity=1:32 \
  seed=0,1,2 "$high"
sweep experiment="study/$bed" recipe=dense "$patterns" seed=$more "$low"
# FF alone: no decay, only the masked gradient.
sweep experiment="study/$bed" recipe=static sparsity=1:32 seed=0,1,2 "$grid"
