package convert

import (
	"context"
	"log/slog"

	"github.com/evatool/evatool/internal/fault"
)

// InitOptions says from what Init builds a starting model.
type InitOptions struct {
	Config string   // architecture name or JSON file
	Vision string   // checkpoint for the vision tower; empty: not loaded
	Text   string   // checkpoint for the text tower; empty: not loaded
	Base   string   // what stays random comes from this model; empty: from Seed
	Skip   []string // globs of tensors that are not loaded; nil: DefaultSkip
	Resize string   // eva (default), clip-rei, openclip
	Seed   uint64
	Output string
	Force  bool
	Log    *slog.Logger
}

// DefaultSkip is the recipe's skip list.
var DefaultSkip = []string{"head.*", "lm_head.*", "mask_token", "text_projection", "logit_scale"}

// InitReport says where every tensor of the starting model comes from.
type InitReport struct {
	Output   string       `json:"output"`
	Config   string       `json:"config"`
	Loaded   []string     `json:"loaded"`
	Resized  []Resized    `json:"resized"`
	Skipped  []Dropped    `json:"skipped"`
	FromBase []string     `json:"from_base"`
	Random   []string     `json:"random"`
	Source   []SourceFile `json:"source"`
	Tensors  []Tensor     `json:"tensors"`
	Seconds  float64      `json:"seconds"`
	Verified bool         `json:"verified"`
}

// Init builds the recipe's starting CLIP: an EVA vision tower and a CLIP text
// tower; what neither gives comes from Base or from Seed.
func Init(ctx context.Context, o InitOptions) (*InitReport, error) {
	return nil, fault.Envf("init: not built yet")
}
