package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evatool/evatool/trainer"
)

// hints say what stands here for a flag of other programs, by "command flag".
var hints = map[string]string{
	"train lr":                  "a recipe has it: --set lr=VALUE for all three groups, or lr.vision, lr.text, lr.other",
	"train batch-size":          "a recipe has it: --set batch=N, over all devices",
	"train epochs":              "a recipe counts samples: --set samples=N, the size of the data times the epochs (or --set steps=N)",
	"train wd":                  "a recipe has it: --set optimizer.weight_decay=VALUE",
	"train weight-decay":        "a recipe has it: --set optimizer.weight_decay=VALUE",
	"train beta1":               "a recipe has it: --set optimizer.betas.0=VALUE",
	"train beta2":               "a recipe has it: --set optimizer.betas.1=VALUE",
	"train eps":                 "a recipe has it: --set optimizer.eps=VALUE",
	"train opt":                 "a recipe has it: --set optimizer.name=NAME",
	"train grad-clip-norm":      "a recipe has it: --set optimizer.clip_grad_norm=VALUE",
	"train warmup":              "a recipe has it: --set warmup_steps=N",
	"train accum-freq":          "a recipe says the rows that a device takes at once: --set micro_batch=N",
	"train force-patch-dropout": "a recipe has it: --set patch_dropout=VALUE",
	"train train-data":          "a recipe has it: --set data.0.source=SRC",
	"train data":                "a recipe has it: --set data.0.source=SRC",
	"train imagenet-val":        "a recipe has it: --set 'eval=[{every_steps: N, benchmark: imagenet, data: DIR}]'",
	"train pretrained":          "a recipe has it: --set init.model=FILE",
	"train pretrained-image":    "a recipe has it: --set init.vision=FILE",
	"train pretrained-text":     "a recipe has it: --set init.text=FILE",
	"train save-frequency":      "a recipe has it: --set checkpoint.every_steps=N",
	"train logs":                "the run's folder is --out DIR",
	"train name":                "the run's folder is --out DIR",
	"train config":              "the recipe is the argument: evatool train RECIPE.yaml",
	"train device":              "it is called --backend",
}

// renamed are the flags of open_clip, CLIP_benchmark and timm that commands have
// by another name: the flag, and what to write.
var renamed = map[string]struct{ flag, text string }{
	"batch-size":       {"batch", "it is called --batch"},
	"precision":        {"dtype", "it is called --dtype: fp32, bf16 or fp16"},
	"amp":              {"dtype", "it is called --dtype: fp32, bf16 or fp16"},
	"device":           {"backend", "it is called --backend"},
	"pretrained":       {"model", "--model takes the weights: a file, or a name such as ViT-B-32/laion2b_s34b_b79k"},
	"checkpoint":       {"model", "it is called --model"},
	"dataset-root":     {"data", "it is called --data"},
	"data-path":        {"data", "it is called --data"},
	"dataset":          {"data", "the benchmark is the argument; --data says where it lies"},
	"task":             {"data", "it is a command: evatool zeroshot, evatool retrieval, evatool probe"},
	"num-workers":      {"workers", "it is called --workers"},
	"imagenet-val":     {"data", "evatool zeroshot imagenet --data DIR"},
	"imagenet-v2":      {"data", "evatool zeroshot imagenet-v2 --data DIR"},
	"cache-dir":        {"model", "the cache is Hugging Face's: HF_HUB_CACHE says where"},
	"output-dir":       {"out", "it is called --out"},
	"results":          {"out", "it is called --out"},
	"force-quick-gelu": {"config", "--config NAME-quickgelu, or a JSON file with quick_gelu true"},
	"fewshot-k":        {"shots", "it is called --shots"},
	"template":         {"templates", "it is called --templates, a file"},
	"annotation-file":  {"data", "--data takes the folder that it lies in"},
	"image-size":       {"preprocess", "convert has it: evatool convert FILE --image-size N -o OUT"},
	"image-mean":       {"preprocess", "--preprocess mean=…,std=…"},
	"image-std":        {"preprocess", "--preprocess mean=…,std=…"},
}

// hint says what to write for a flag that cmd does not have; empty where it is
// not known.
func hint(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	name := unknown.GetSpecifiedName()
	dashed := strings.ReplaceAll(name, "_", "-")
	if cmd.Flags().Lookup(dashed) != nil {
		return "it is called --" + dashed
	}
	if s, ok := hints[cmd.Name()+" "+dashed]; ok {
		return s
	}
	if key := strings.ReplaceAll(name, "-", "_"); cmd.Name() == "train" && slices.Contains(trainer.RecipeKeys(), key) {
		return "a recipe has it: --set " + key + "=VALUE"
	}
	if r, ok := renamed[dashed]; ok && cmd.Flags().Lookup(r.flag) != nil {
		return r.text
	}
	return ""
}
