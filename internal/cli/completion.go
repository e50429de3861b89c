package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/hub"
	"github.com/evatool/evatool/trainer"
)

// flagValues are what the shell offers after a flag, by "command flag" or, for all
// commands, by the flag. The test tries each of them with its command.
var flagValues = map[string][]string{
	"backend":          {"auto", "go", "xla", "xla-cpu", "xla-cuda", "xla:"},
	"hosts":            {"auto", "off"},
	"huge-pages":       {"auto", "off"},
	"layout":           {"eva", "openclip", "hf", "source"},
	"dtype":            {"fp32", "bf16", "fp16"},
	"convert dtype":    {"keep", "fp32", "fp16", "bf16"},
	"resize":           {"eva", "clip-rei", "openclip"},
	"map":              {"auto", "none"},
	"preprocess":       {"openai", "inception", "imagenet"},
	"interpolation":    {"bicubic", "bilinear", "nearest", "lanczos", "box", "hamming"},
	"mode":             {"rgb-first", "direct"},
	"train resume":     {"auto", "never"},
	"shard":            {"auto"},
	"classifier-cache": {"off"},
	"language":         {"en", "ar", "cn", "it", "jp"},
}

// namesOrFiles are flags that take a name from a list, or a file.
var namesOrFiles = map[string]func() []string{
	"config": arch.Names, "card": trainer.Cards,
	"model": hub.Names, "vision": hub.Names, "base": hub.Names, "init text": hub.Names,
}

// arguments are what the shell offers as a command's first argument.
var arguments = map[string]func() []string{
	"train":     trainer.Bundled,
	"models":    arch.Names,
	"convert":   hub.Names,
	"inspect":   hub.Names,
	"fetch":     hub.Names,
	"diff":      hub.Names,
	"zeroshot":  benchmarks,
	"retrieval": func() []string { return []string{"flickr30k", "coco", "csv"} },
}

// several are the commands that take several such arguments.
var several = map[string]bool{"convert": true, "fetch": true, "diff": true}

// complete tells the shell which values the flags and arguments of cmd and of
// the commands below it take.
func complete(cmd *cobra.Command) {
	for flag := range flagValues {
		if _, name, ok := strings.Cut(flag, " "); ok {
			flag = name
		}
		values, ok := flagValues[cmd.Name()+" "+flag]
		if !ok {
			values = flagValues[flag]
		}
		offer(cmd, flag, func() []string { return values }, cobra.ShellCompDirectiveDefault)
	}
	for flag, values := range namesOrFiles {
		if of, name, ok := strings.Cut(flag, " "); !ok {
			offer(cmd, flag, values, cobra.ShellCompDirectiveDefault)
		} else if of == cmd.Name() {
			offer(cmd, name, values, cobra.ShellCompDirectiveDefault)
		}
	}
	if cmd.Name() == "train" {
		offer(cmd, "set", recipeSettings, cobra.ShellCompDirectiveNoSpace)
	}
	if values, ok := arguments[cmd.Name()]; ok && cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = func(_ *cobra.Command, args []string, begun string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 && !several[cmd.Name()] {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			if i := strings.LastIndex(begun, ",") + 1; i > 0 && cmd.Name() == "zeroshot" { // A,B,…
				var list []string
				for _, name := range begin(values(), begun[i:]) {
					list = append(list, begun[:i]+name)
				}
				return list, cobra.ShellCompDirectiveNoFileComp
			}
			return begin(values(), begun), cobra.ShellCompDirectiveDefault
		}
	}
	for _, sub := range cmd.Commands() {
		complete(sub)
	}
}

// offer registers the values of a flag if cmd has it and nothing is registered yet.
func offer(cmd *cobra.Command, flag string, values func() []string, how cobra.ShellCompDirective) {
	if cmd.Flags().Lookup(flag) == nil && cmd.PersistentFlags().Lookup(flag) == nil {
		return
	}
	if _, there := cmd.GetFlagCompletionFunc(flag); there {
		return
	}
	err := cmd.RegisterFlagCompletionFunc(flag, func(_ *cobra.Command, _ []string, begun string) ([]string, cobra.ShellCompDirective) {
		return begin(values(), begun), how
	})
	if err != nil {
		panic(err) // the flag exists
	}
}

// begin returns the words that start with begun; the shell completes paths.
func begin(words []string, begun string) (out []string) {
	for _, w := range words {
		if strings.HasPrefix(w, begun) {
			out = append(out, w)
		}
	}
	return out
}

func benchmarks() []string {
	names := []string{"folder", eval.DataComp}
	for _, b := range eval.List() {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// recipeSettings are the keys of a recipe, each followed by =.
func recipeSettings() []string {
	keys := trainer.RecipeKeys()
	for i := range keys {
		keys[i] += "="
	}
	return keys
}
