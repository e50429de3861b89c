package eval

import (
	"log/slog"
	"testing"

	"github.com/evatool/evatool/internal/fault"
)

// An opened model takes the place of what says how to open one.
func TestOpenedAlone(t *testing.T) {
	m := &Model{}
	for name, err := range map[string]error{
		"Model":   (&Options{Opened: m, Model: "x"}).check(),
		"Backend": (&Options{Opened: m, OpenOptions: OpenOptions{Backend: "go"}}).check(),
		"DType":   (&EmbedOptions{Opened: m, OpenOptions: OpenOptions{DType: "bf16"}, Texts: "x", Out: "x.npy"}).check(),
		"Config":  (&RetrievalOptions{Opened: m, Set: "csv", OpenOptions: OpenOptions{Config: "x"}}).check(),
	} {
		if fault.Code(err) != int(fault.Usage) {
			t.Errorf("%s beside Opened: %v", name, err)
		}
	}
	for _, err := range []error{
		(&Options{Opened: m, OpenOptions: OpenOptions{Batch: 3, Workers: 2, Log: slog.Default()}}).check(),
		(&RetrievalOptions{Opened: m, Set: "csv"}).check(),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
