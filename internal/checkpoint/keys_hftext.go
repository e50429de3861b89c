package checkpoint

import (
	"slices"

	"github.com/evatool/evatool/internal/arch"
)

// hfTexts are the models in CustomTextCLIP's naming whose text tower is one of
// transformers' under its own names, with any vision tower.
var hfTexts = func() (list []*family) {
	usual := arch.TokenEmbeddings()[0]
	for _, mark := range arch.TokenEmbeddings()[1:] {
		for _, f := range slices.Concat(timmOthers, timmCLIPs, []*family{evaCLIP}) {
			i := slices.Index(f.has, usual)
			if i < 0 {
				continue // its text tower has no prefix
			}
			with := *f
			with.has = slices.Clone(f.has)
			with.has[i] = mark
			list = append(list, &with)
		}
	}
	return list
}()
