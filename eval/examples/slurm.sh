#!/bin/sh
#SBATCH --job-name=zeroshot
#SBATCH --array=0-7
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --time=01:00:00
#SBATCH --requeue
# Eight parts of ImageNet. A requeued task continues where it was.
exec evatool zeroshot imagenet \
	--model "${MODEL:-EVA02_CLIP_B_psz16_s8B.safetensors}" \
	--data "${DATA:-ILSVRC2012_img_val.tar}" \
	--shard auto \
	--out "${OUT:-runs/b16}/part-$SLURM_ARRAY_TASK_ID"
