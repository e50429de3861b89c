package checkpoint

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/evatool/evatool/internal/arch"
	"github.com/evatool/evatool/internal/digest"
	"github.com/evatool/evatool/internal/published"
)

// Hash is the SHA-256 of the (first) file. The next plan knows it, and by it the
// published weights that the file may be.
func (in *Input) Hash(ctx context.Context) (string, error) {
	sum, _, err := digest.File(ctx, in.Files[0], Want)
	if err == nil && len(in.Files) == 1 {
		in.sha256 = sum
	}
	return sum, err
}

// named says whether the table of published weights knows the file, by its hash
// or its name.
func (in *Input) named() bool {
	return len(published.BySHA256(in.sha256)) > 0 || len(published.ByName(in.Files[0])) > 0
}

// HashTells says whether the file's hash may change a plan, or the error that
// there was instead: where the activation is not known, and the table of
// published weights has the hash of a file of this kind with the other one.
func (in *Input) HashTells(p *Plan, err error) bool {
	if len(in.Files) != 1 || err != nil && !errors.Is(err, errAmbiguous) || err == nil && !p.guessed {
		return false
	}
	return slices.ContainsFunc(published.AllWeights(), func(w published.Weights) bool {
		if w.SHA256 == "" || strings.HasSuffix(w.URL, ".safetensors") != (in.Container == "safetensors") {
			return false
		}
		if err != nil {
			return true
		}
		named, ok := arch.Named(w.Architecture)
		return ok && w.QuickGELU != p.Config.QuickGELU && sameButActivation(named, p.Config)
	})
}
