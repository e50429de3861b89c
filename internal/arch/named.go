package arch

import (
	"embed"
	"path"
	"slices"
	"strings"
	"sync"
)

// One file per published architecture.
//
//go:embed configs/*.json
var files embed.FS

var (
	loadOnce sync.Once
	loaded   map[string]*Config
)

func named() map[string]*Config {
	loadOnce.Do(func() { loaded = load() })
	return loaded
}

func load() map[string]*Config {
	m := map[string]*Config{}
	entries, err := files.ReadDir("configs")
	if err != nil {
		panic(err) // embedded
	}
	for _, e := range entries {
		data, err := files.ReadFile(path.Join("configs", e.Name()))
		if err != nil {
			panic(err)
		}
		o, err := decodeObject(data)
		if err != nil {
			panic(e.Name() + ": " + err.Error())
		}
		// No name refers to another one here, so there is no recursion.
		parse := parseOpenAI
		if o["vision_layers"] == nil {
			parse = func(o object) (*Config, error) { return parseOpenCLIP(o, nil) }
		}
		c, err := parse(o)
		if err == nil {
			err = c.check()
		}
		if err != nil {
			panic(e.Name() + ": " + err.Error())
		}
		m[strings.TrimSuffix(e.Name(), ".json")] = c
	}
	return m
}

// Names lists the published architectures in alphabetical order.
func Names() []string {
	names := make([]string, 0, len(named()))
	for n := range named() {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}

// Named returns a published architecture by its name here, or by the one that the
// original repositories use.
func Named(name string) (*Config, bool) {
	c, ok := named()[Canonical(name)]
	if !ok {
		return nil, false
	}
	clone := *c
	clone.Vision.Layers = slices.Clone(c.Vision.Layers)
	return &clone, true
}

// aliases are EVA-CLIP's and OpenAI's names of the same models. OpenCLIP's own names
// need none: ViT-B-32 is openclip-ViT-B-32, and if only OpenAI's model has QuickGELU,
// ViT-B-32-quickgelu is openai-ViT-B-32.
var aliases = map[string]string{
	"EVA01-g-14": "EVA01-CLIP-g-14", "EVA01-g-14-plus": "EVA01-CLIP-g-14-plus",
	"EVA02-B-16": "EVA02-CLIP-B-16", "EVA02-L-14": "EVA02-CLIP-L-14", "EVA02-L-14-336": "EVA02-CLIP-L-14-336",
	"EVA-CLIP-8B-448": "EVA-CLIP-8B-plus",
	"EVA02-E-14":      "EVA02-CLIP-bigE-14", "EVA02-E-14-plus": "EVA02-CLIP-bigE-14-plus",
	"OpenaiCLIP-B-16": "openai-ViT-B-16", "OpenaiCLIP-L-14": "openai-ViT-L-14", "OpenCLIP-H-14": "openclip-ViT-H-14", "OpenCLIP-bigG-14": "openclip-ViT-bigG-14",
	"ViT-B/32": "openai-ViT-B-32", "ViT-B/16": "openai-ViT-B-16", "ViT-L/14": "openai-ViT-L-14", "ViT-L/14@336px": "openai-ViT-L-14-336",
	// The same models with other weights, in OpenCLIP of the same size.
	"MobileCLIP2-B": "MobileCLIP-B", "MobileCLIP2-S2": "MobileCLIP-S2", "ViTamin-XL-384": "ViTamin-XL-256",
	// OpenAI's names, which OpenCLIP uses for the same models with GELU: openclip-RN50.
	"RN50": "openai-RN50", "RN101": "openai-RN101", "RN50x4": "openai-RN50x4", "RN50x16": "openai-RN50x16", "RN50x64": "openai-RN50x64",
}

// Canonical returns the name here of an architecture that others call name.
func Canonical(name string) string {
	if a, ok := aliases[name]; ok {
		return a
	}
	names := []string{name, "openclip-" + name}
	if plain, ok := strings.CutSuffix(name, "-quickgelu"); ok {
		names = append(names, "openai-"+plain)
	}
	for _, n := range names {
		if _, ok := named()[n]; ok {
			return n
		}
	}
	return name
}

// Shared reports whether OpenAI and OpenCLIP use this name for two architectures that
// differ in their activation. plain is the name here of OpenCLIP's.
func Shared(name string) (plain string, ok bool) {
	plain = "openclip-" + name
	_, there := named()[plain]
	return plain, there && strings.HasPrefix(aliases[name], "openai-")
}
