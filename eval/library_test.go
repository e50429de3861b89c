package eval

import (
	"strings"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// A part that is not one of the shards is refused before anything is opened.
func TestNoSuchPart(t *testing.T) {
	for _, p := range [][2]int{{-1, 2}, {2, 2}, {1, 0}, {0, -2}, {-1, 0}} {
		one := Options{Data: t.TempDir(), Model: "m", Shard: p[0], Shards: p[1]}
		for name, err := range map[string]error{
			"zeroshot":  one.check(),
			"retrieval": (&RetrievalOptions{Set: "csv", Model: "m", Shard: p[0], Shards: p[1]}).check(),
			"probe":     (&ProbeOptions{Train: "a", Data: "b", Model: "m", Shard: p[0], Shards: p[1]}).check(),
			"suite":     (&SuiteOptions{Models: []string{"m"}, Sets: []string{"a"}, Options: one}).check(),
		} {
			if fault.Code(err) != int(fault.Usage) || !strings.Contains(err.Error(), "Options.Shard ") {
				t.Errorf("%s, part %d of %d: %v", name, p[0], p[1], err)
			}
		}
	}
}
