package cli

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/evatool/evatool/trainer"
)

// hints say what replaces a flag of other programs, by "command flag".
var hints = map[string]string{
	"train lr":                  "it is a recipe key: --set lr=VALUE for all three groups, or lr.vision, lr.text or lr.other",
	"train batch-size":          "it is a recipe key: --set batch=N, over all devices",
	"train epochs":              "a recipe counts samples: --set samples=N, the size of the data times the epochs (or --set steps=N)",
	"train wd":                  "it is a recipe key: --set optimizer.weight_decay=VALUE",
	"train weight-decay":        "it is a recipe key: --set optimizer.weight_decay=VALUE",
	"train beta1":               "it is a recipe key: --set optimizer.betas.0=VALUE",
	"train beta2":               "it is a recipe key: --set optimizer.betas.1=VALUE",
	"train eps":                 "it is a recipe key: --set optimizer.eps=VALUE",
	"train opt":                 "it is a recipe key: --set optimizer.name=NAME",
	"train grad-clip-norm":      "it is a recipe key: --set optimizer.clip_grad_norm=VALUE",
	"train warmup":              "it is a recipe key: --set warmup_steps=N",
	"train accum-freq":          "a recipe gives the rows that a device takes at once: --set micro_batch=N",
	"train force-patch-dropout": "it is a recipe key: --set patch_dropout=VALUE",
	"train train-data":          "it is a recipe key: --set data.0.source=SRC",
	"train data":                "it is a recipe key: --set data.0.source=SRC",
	"train imagenet-val":        "it is a recipe key: --set 'eval=[{every_steps: N, benchmark: imagenet, data: DIR}]'",
	"train pretrained":          "it is a recipe key: --set init.model=FILE",
	"train pretrained-image":    "it is a recipe key: --set init.vision=FILE",
	"train pretrained-text":     "it is a recipe key: --set init.text=FILE",
	"train save-frequency":      "it is a recipe key: --set checkpoint.every_steps=N",
	"train logs":                "the run folder is --out DIR",
	"train name":                "the run folder is --out DIR",
	"train config":              "the recipe is the argument: evatool train RECIPE.yaml",
	"train device":              "use --backend",
}

// renamed maps flags of open_clip, CLIP_benchmark and timm to the flag that a command
// must have for the hint to apply, and the hint.
var renamed = map[string]struct{ flag, text string }{
	"batch-size":       {"batch", "use --batch"},
	"precision":        {"dtype", "use --dtype: fp32, bf16 or fp16"},
	"amp":              {"dtype", "use --dtype: fp32, bf16 or fp16"},
	"device":           {"backend", "use --backend"},
	"pretrained":       {"model", "--model takes the weights: a file, or a name such as ViT-B-32/laion2b_s34b_b79k"},
	"checkpoint":       {"model", "use --model"},
	"dataset-root":     {"data", "use --data"},
	"data-path":        {"data", "use --data"},
	"dataset":          {"data", "the benchmark is the argument; --data says where it is"},
	"task":             {"data", "each task is a command: evatool zeroshot, evatool retrieval, evatool probe"},
	"num-workers":      {"workers", "use --workers"},
	"imagenet-val":     {"data", "use evatool zeroshot imagenet --data DIR"},
	"imagenet-v2":      {"data", "use evatool zeroshot imagenet-v2 --data DIR"},
	"cache-dir":        {"model", "the cache is Hugging Face's: set HF_HUB_CACHE"},
	"output-dir":       {"out", "use --out"},
	"results":          {"out", "use --out"},
	"force-quick-gelu": {"config", "use --config NAME-quickgelu, or a JSON file with quick_gelu true"},
	"fewshot-k":        {"shots", "use --shots"},
	"template":         {"templates", "use --templates FILE"},
	"annotation-file":  {"data", "--data takes the folder that holds it"},
	"image-size":       {"preprocess", "use evatool convert FILE --image-size N -o OUT"},
	"image-mean":       {"preprocess", "use --preprocess mean=…,std=…"},
	"image-std":        {"preprocess", "use --preprocess mean=…,std=…"},
}

// hint says what to write instead of a flag that cmd does not have; empty if unknown.
func hint(cmd *cobra.Command, err error) string {
	var unknown *pflag.NotExistError
	if !errors.As(err, &unknown) {
		return ""
	}
	name := unknown.GetSpecifiedName()
	dashed := strings.ReplaceAll(name, "_", "-")
	if cmd.Flags().Lookup(dashed) != nil {
		return "use --" + dashed
	}
	if s, ok := hints[cmd.Name()+" "+dashed]; ok {
		return s
	}
	if key := strings.ReplaceAll(name, "-", "_"); cmd.Name() == "train" && slices.Contains(trainer.RecipeKeys(), key) {
		return "it is a recipe key: --set " + key + "=VALUE"
	}
	if r, ok := renamed[dashed]; ok && cmd.Flags().Lookup(r.flag) != nil {
		return r.text
	}
	return ""
}
