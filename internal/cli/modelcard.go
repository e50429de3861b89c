package cli

import (
	"strings"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/eval"
	"github.com/evatool/evatool/internal/atomicfile"
	"github.com/evatool/evatool/internal/fault"
	"github.com/evatool/evatool/internal/runlog"
)

// modelCard is the value of --model-card.
type modelCard struct{ path string }

func (c *modelCard) flag(cmd *cobra.Command) {
	cmd.Flags().StringVar(&c.path, "model-card", "", "write the figures as Hugging Face's model-index, with a table, the command and hashes, to the Markdown `FILE`")
}

// check finds out before the work whether the card can be written.
func (c *modelCard) check(models, shards int, inputs ...string) error {
	switch {
	case c.path == "":
		return nil
	case models > 1:
		return fault.Usagef("--model-card: describes one model; give only one --model")
	case shards > 1:
		return fault.Usagef("--model-card: describes a whole run, not a part; --shard 0/1 runs everything")
	}
	if err := atomicfile.Apart([]string{c.path}, inputs); err != nil {
		return err
	}
	return eval.CheckModelCard(c.path)
}

// write writes the card of a run, if one was asked for.
func (c *modelCard) write(app *App, m eval.ModelInfo, lines []eval.CardLine) error {
	if c.path == "" {
		return nil
	}
	if err := eval.WriteModelCard(c.path, m, lines, commandLine(app.args), runlog.Versions()); err != nil {
		return err
	}
	app.Printf("card    %s\n", c.path)
	return nil
}

// commandLine is the command quoted for a shell.
func commandLine(args []string) string {
	words := []string{"evatool"}
	for _, a := range args {
		if a == "" || strings.ContainsAny(a, " \t\n'\"\\$&;|<>()*?[]{}#~`!") {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}
