package cli

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/img"
)

// decodeMemory is the value of --decode-memory. It applies to the whole process:
// to training and to the evaluations during it.
type decodeMemory struct{ text string }

func (d *decodeMemory) String() string { return d.text }

func (d *decodeMemory) Type() string { return "SIZE" }

func (d *decodeMemory) Set(s string) error {
	n, err := parseSize("--decode-memory", s)
	if err != nil || n == 0 {
		return errors.New("want a size such as 500MiB or 4GiB")
	}
	img.SetMemory(n)
	d.text = s
	return nil
}

func decodeMemoryFlag(cmd *cobra.Command) {
	def := &decodeMemory{fmt.Sprintf("%dGiB", img.DefaultMemory>>30)}
	cmd.Flags().Var(def, "decode-memory", "memory for all the pictures being decoded; a picture larger than this is decoded alone")
}
