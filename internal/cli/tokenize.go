package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/evatool/evatool/internal/bpe"
	"github.com/evatool/evatool/internal/fault"
)

func newTokenize(app *App) *cobra.Command {
	var context int
	var jsonInput bool
	cmd := &cobra.Command{
		Use:   "tokenize [TEXT...]",
		Short: "Print the CLIP token ids of texts",
		Long: `Print the token ids that CLIP's text tower reads, start (49406) and end (49407)
included, without padding. Texts longer than the context are cut, with the end
token last. Without TEXT, every line of standard input is a text.

The ids are those of OpenAI's and OpenCLIP's tokenizers with ftfy: mojibake and
HTML entities are repaired, white space is collapsed, letters become lower case.` + exitStatus,
		Example: `  evatool tokenize "a photo of a cat" "a diagram"
  evatool tokenize --json --context 32 < captions.txt`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if context < 2 {
				return fault.Usagef("--context %d: want at least 2, for the start and end tokens", context)
			}
			if jsonInput && len(args) > 0 {
				return fault.Usagef("--json-input: reads texts from standard input; give no TEXT with it")
			}
			texts := args
			if len(texts) == 0 {
				var err error
				if texts, err = readTexts(cmd.Context(), app.In, jsonInput); err != nil {
					return err
				}
			}
			for i, s := range texts {
				if !utf8.ValidString(s) {
					return fault.Inputf("text %d, %.80q: not UTF-8; give the texts as UTF-8", i+1, s)
				}
			}
			return printTokens(app, tokenizeAll(texts, context, app.Threads))
		},
	}
	cmd.Flags().IntVar(&context, "context", 77, "at most `N` ids per text")
	cmd.Flags().BoolVar(&jsonInput, "json-input", false, "standard input is a JSON array of strings")
	return cmd
}

// readTexts reads texts, one per line or as one JSON array of strings.
func readTexts(ctx context.Context, in io.Reader, asJSON bool) ([]string, error) {
	b, err := fault.ReadAll(ctx, in)
	if ctx.Err() != nil {
		return nil, err
	}
	if err != nil {
		return nil, fault.Inputf("standard input: %w", err)
	}
	if asJSON {
		if !utf8.Valid(b) { // encoding/json would take it
			return nil, fault.Inputf("standard input: not UTF-8; give the texts as UTF-8")
		}
		var texts []string
		dec := json.NewDecoder(bytes.NewReader(b))
		if err := dec.Decode(&texts); err != nil {
			return nil, fault.Inputf("standard input: want a JSON array of strings: %w", err)
		}
		if _, err := dec.Token(); !errors.Is(err, io.EOF) {
			return nil, fault.Inputf("standard input: more data after the JSON array; want one array of strings")
		}
		return texts, nil
	}
	var texts []string
	for line := range strings.Lines(string(b)) {
		texts = append(texts, strings.TrimSuffix(strings.TrimSuffix(line, "\n"), "\r"))
	}
	return texts, nil
}

// tokenizeAll tokenizes on threads cores (0: all) and keeps the order.
func tokenizeAll(texts []string, context, threads int) [][]int32 {
	tok := bpe.New()
	out := make([][]int32, len(texts))
	var wg sync.WaitGroup
	workers := threads
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	for w := range workers {
		wg.Go(func() {
			for i := w * len(texts) / workers; i < (w+1)*len(texts)/workers; i++ {
				ids := tok.Encode(texts[i])
				if len(ids) > context {
					ids = ids[:context]
					ids[context-1] = bpe.End
				}
				out[i] = ids
			}
		})
	}
	wg.Wait()
	return out
}

func printTokens(app *App, ids [][]int32) error {
	if app.JSON && len(ids) == 0 {
		return app.PrintJSON([][]int32{})
	}
	w := bufio.NewWriterSize(app.Out, 1<<16)
	open, separator, next, end := "", " ", "\n", "\n"
	if app.JSON {
		open, separator, next, end = "[", ",", "],\n", "]]\n"
		w.WriteByte('[')
	}
	var line []byte
	for i, row := range ids {
		line = append(line[:0], open...)
		for j, id := range row {
			if j > 0 {
				line = append(line, separator...)
			}
			line = strconv.AppendInt(line, int64(id), 10)
		}
		if i == len(ids)-1 {
			line = append(line, end...)
		} else {
			line = append(line, next...)
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return w.Flush()
}
