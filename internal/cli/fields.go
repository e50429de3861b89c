package cli

import (
	"context"
	"log/slog"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// field is how the packages below name an option: by its field in Go.
var field = regexp.MustCompile(`\bOptions\.([A-Z][A-Za-z0-9]*)\b`)

// flagNames are the flags whose names differ from their fields'.
var flagNames = map[string]string{"ClassNames": "classnames", "Classifiers": "classifier"}

// flagOf is the flag of a field: ImageSize is image-size, DType dtype.
func flagOf(name string) string {
	if f, ok := flagNames[name]; ok {
		return f
	}
	var b strings.Builder
	for i, r := range name {
		if upper := r >= 'A' && r <= 'Z'; upper && i > 0 && name[i-1] >= 'a' {
			b.WriteByte('-')
		}
		b.WriteRune(r)
	}
	return strings.ToLower(b.String())
}

// flagged replaces the fields of options named in a message by the flags of the
// command that ran.
func flagged(cmd *cobra.Command, text string) string {
	return field.ReplaceAllStringFunc(text, func(m string) string {
		name := flagOf(strings.TrimPrefix(m, "Options."))
		if f := cmd.Flags().Lookup(name); f != nil && f.Shorthand == "o" && strings.Contains(cmd.Use, "-o ") {
			return "-o"
		}
		return "--" + name
	})
}

// flaggedLog does the same for the messages of a log.
type flaggedLog struct {
	slog.Handler
	cmd *cobra.Command
}

func (h flaggedLog) Handle(ctx context.Context, r slog.Record) error {
	r.Message = flagged(h.cmd, r.Message)
	return h.Handler.Handle(ctx, r)
}
